"""Which prior, at which beta, at which latent size? Priors fitted to the same frozen codes for equal seconds.

    OMP_NUM_THREADS=1 python tests/benchmarks/priors_on_codes.py DATA_ROOT --out FILE.jsonl [--seed 0 ...]
    python tests/benchmarks/priors_on_codes.py --table FILE.jsonl ...

Autoencoders are those of experiment=mnist_small with a learned variance, at latent_dim 16 and 64, beta 0 and 1:
trained jointly with the paper's flow (order=joint), or with N(0, I) (the first stage of order=two_stage; at
beta = 0 this is the same autoencoder, bit for bit). Each prior is then trained alone on their codes for
--seconds of CPU time; a mixture runs EM first, then gradients if that leaves a quarter of them. A row has

    fd      Frechet distance of 10,000 decoded prior samples to the test images, in the features of a small
            classifier trained here (a surrogate: compare rows, never published FIDs)
    limit   the same of 10,000 decoded training codes: what a perfect prior would score
    train   -log p(z) of 2,000 codes that it was trained on, nats; held: of 2,000 held-out codes

Seconds are of one thread, of training alone. A cell that stands in FILE already is left out.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from pyro_lrp import config
from pyro_lrp.config import folders as cli
from pyro_lrp.core.files import plain
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import chunks
from pyro_lrp.metrics import FeatureStatistics
from pyro_lrp.metrics.classifiers import classifier_for
from pyro_lrp.metrics.subject import as_files
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.trainer import Phase, PriorPhase, Trainer

ROOT = Path("runs/priors_on_codes")
PRIORS = {  # what is composed, and options of the prior-only phase
    "flow, joint": (None, {}),
    "flow": (["prior=flow"], {}),
    "flow, code noise 0.3": (["prior=flow"], {"code_noise": 0.3}),
    "spline": (["prior=spline"], {}),
    "flow_matching": (["prior=flow_matching"], {}),
    "mixture 100": (["prior=mixture", "prior.components=100", "prior.em_iterations=10"], {}),
    "mixture 200": (["prior=mixture", "prior.components=200", "prior.em_iterations=10"], {}),
    "mixture 400": (["prior=mixture", "prior.components=400", "prior.em_iterations=10"], {}),
}
STAGES = {"joint": [*PRIORS], "two_stage": ["flow", "flow_matching", "mixture 200"]}


def arguments_of(stage, latent_dim, beta, seed):
    """The command line that trains an autoencoder."""
    prior = [] if stage == "joint" else ["prior=standard_normal"]
    return [
        "experiment=mnist_small", "model=vae_flow_learned_gamma", "likelihood.lr=1e-2", f"beta={beta}",
        f"latent_dim={latent_dim}", "prior_epochs=0", f"seed={seed}", *prior, "trainer.evaluations=2",
        f"name=priors_on_codes/{stage}_z{latent_dim}_beta_{beta}",
    ]  # fmt: skip


def composed(arguments):
    """The identity of a run, and what the data say put in."""
    with initialize_config_dir(cli.conf_dir(), version_base="1.3"):
        cfg = compose("train", arguments, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg.hydra
        return config.plan(cfg).identity


def trained(stage, latent_dim, beta, seed, root):
    """The run directory of an autoencoder, trained now if it was not before."""
    import sys
    from unittest import mock

    from pyro_lrp import train

    run = ROOT / f"{stage}_z{latent_dim}_beta_{beta}" / f"seed_{seed}"
    if not (run / "summary.json").is_file():
        with mock.patch.object(
            sys, "argv", ["train", *arguments_of(stage, latent_dim, beta, seed), f"data.root={root}"]
        ):
            train.main()
    return run


def with_prior(run, name, arguments):
    """The run's autoencoder with a fresh prior, or with the one that it was trained with."""
    autoencoder = config.load(run)
    if PRIORS[name][0] is not None:
        identity, _ = config.settle(composed([*arguments, *PRIORS[name][0]]), config_data)
        fresh = config.build_autoencoder(identity, identity["image_shape"])
        for part in ("encoder", "decoder", "likelihood"):
            getattr(fresh, part).load_state_dict(getattr(autoencoder, part).state_dict())
        autoencoder = fresh
    return LatentGame(autoencoder, BilevelELBO(0.0))


def seconds_per_step(game, codes, steps=20):
    """CPU seconds of a step of the prior alone; what it learns meanwhile is undone."""
    prior = game.autoencoder.prior
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    adam = torch.optim.Adam(prior.parameters(), lr=1e-3, fused=True)
    for step in range(2 + steps):
        if step == 2:
            start = time.process_time()
        adam.zero_grad()
        game("prior", [codes.rows(torch.randint(len(codes.loc), (200,)))], {}).loss.backward()
        adam.step()
    elapsed = (time.process_time() - start) / steps
    prior.load_state_dict(before)
    return elapsed


@torch.no_grad()
def feature_statistics(network, images):
    """Mean and covariance of a classifier's features of images that come in batches."""
    return FeatureStatistics.of(network.features(as_files(part)) for part in images)


def judged(game, codes, held, network, reference):
    """fd, and -log p(z) of trained and held-out codes."""
    autoencoder = game.autoencoder.eval()
    with seeded(0, "judge"), torch.no_grad():
        draw = autoencoder.draw(10_000)
        scores = {}
        for name, part in (("train", codes), ("held", held)):
            pick = torch.randperm(len(part.loc))[:2000]
            scores[name] = -autoencoder.prior().log_prob(part.rows(pick).sample()).mean().item()
    distance = feature_statistics(network, draw.images.split(500)).distance(reference)
    return {"fd": distance, **scores, "non_finite": draw.non_finite}


def fitted(run, name, arguments, data, seconds, seed):
    """Train one prior on frozen codes; yields what is to be judged, with the CPU seconds and steps it took."""
    game = with_prior(run, name, arguments)
    game.eval()
    train, _ = data.hold_out(0.1)
    options = PRIORS[name][1]
    with torch.no_grad():
        codes = game.codes(train)
    codes = codes.noised(options.get("code_noise", 0.0))
    spent = 0.0
    prior = game.autoencoder.prior
    if getattr(prior, "em_iterations", 0):
        start = time.process_time()
        with seeded(seed, "fit"):
            game.fit(codes)
        spent = time.process_time() - start
        prior.em_iterations = 0
        yield f"{name}, EM alone", game, spent, 0
    game.autoencoder.prior.train()
    left = seconds - spent
    steps = left / seconds_per_step(game, codes) if left > seconds / 4 else 0
    epochs = round(steps / (len(train) // 200))
    if epochs:
        trainer = Trainer(
            game, data, phases=[Phase("prior_only", epochs)], prior_phase=PriorPhase(**options),
            prior_batch_size=200, lr=1e-3, schedule=config.schedule(composed(arguments)), validation=0.1,
            seed=seed, device="cpu", evaluations=1, evaluation_images=1, report_every=10**9, progress=False,
        )  # fmt: skip
        start = time.process_time()
        trainer.fit()
        spent += time.process_time() - start
        yield name, game, spent, trainer.total_steps


def main(options):
    global config_data
    data = config_data = config.build_data(
        composed(arguments_of("joint", 16, 0, 0)), {"root": options.data_root}
    )
    network = classifier_for(data)
    reference = feature_statistics(network, (batch.x for batch in chunks(data.test)))
    done = {
        tuple(row[k] for k in ("stage", "latent_dim", "beta", "seed", "asked"))
        for row in rows_of([options.out])
    }
    for latent_dim in options.latent:
        for beta in options.beta:
            for stage in ("joint", "two_stage") if beta else ("joint",):
                run = trained(stage, latent_dim, beta, options.seed, options.data_root)
                arguments = arguments_of(stage, latent_dim, beta, options.seed)
                game = with_prior(run, "flow", arguments).eval()
                with torch.no_grad():
                    train, held = (game.codes(split) for split in data.hold_out(0.1))
                with seeded(0, "judge"), torch.no_grad():
                    pick = torch.randperm(len(train.loc))[:10_000]
                    images = [game.autoencoder.decode(z) for z in train.rows(pick).sample().split(500)]
                limit = feature_statistics(network, images).distance(reference)
                for name in options.only or STAGES[stage]:
                    common = {
                        "stage": stage,
                        "latent_dim": latent_dim,
                        "beta": beta,
                        "seed": options.seed,
                        "asked": name,
                    }
                    if tuple(common.values()) in done:
                        continue
                    results = fitted(run, name, arguments, data, options.seconds, options.seed)
                    for label, fitted_game, spent, steps in results:
                        prior = fitted_game.autoencoder.prior
                        row = {
                            **common, "prior": label, **judged(fitted_game, train, held, network, reference),
                            "limit": limit, "seconds": spent, "steps": steps,
                            "parameters": sum(p.numel() for p in prior.parameters()),
                        }  # fmt: skip
                        with open(options.out, "a") as file:
                            file.write(json.dumps(plain(row)) + "\n")
                        print(row, flush=True)


def rows_of(files):
    return [json.loads(line) for f in files if Path(f).is_file() for line in Path(f).read_text().splitlines()]


def table(files):
    """Markdown: a line for each prior, a column for each (latent size, beta), means of the seeds with each."""
    rows = rows_of(files)
    cells = sorted({(r["latent_dim"], r["beta"]) for r in rows})
    print("| stage, prior | s | " + " | ".join(f"z={z}, β={b}" for z, b in cells) + " |")
    print("|---|---|" + "---|" * len(cells))

    def values(key, stage, prior, cell):
        chosen = [
            r for r in rows if (r["stage"], r["prior"], r["latent_dim"], r["beta"]) == (stage, prior, *cell)
        ]
        return [r[key] for r in sorted(chosen, key=lambda r: r["seed"])]

    for stage, prior in dict.fromkeys((r["stage"], r["prior"]) for r in rows):
        seconds = [s for cell in cells for s in values("seconds", stage, prior, cell)]
        texts = []
        for cell in cells:
            fd, train, held = (values(key, stage, prior, cell) for key in ("fd", "train", "held"))
            nll = [f"{sum(v) / len(v):.1f}" for v in (train, held) if v]
            texts.append(f"{', '.join(f'{v:.1f}' for v in fd)} ({' / '.join(nll)})" if fd else "")
        print(f"| {stage}: {prior} | {min(seconds):.0f}-{max(seconds):.0f} | " + " | ".join(texts) + " |")
    for stage in ("joint", "two_stage"):
        limits = [
            sorted({r["limit"] for r in rows if (r["stage"], r["latent_dim"], r["beta"]) == (stage, *c)})
            for c in cells
        ]
        print(f"| {stage}: limit | | " + " | ".join(", ".join(f"{v:.1f}" for v in vs) for vs in limits) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", nargs="?")
    parser.add_argument("--out", default="priors_on_codes.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latent", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--only", nargs="*", metavar="PRIOR", choices=PRIORS)
    parser.add_argument("--beta", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--table", nargs="*", metavar="FILE")
    chosen = parser.parse_args()
    table(chosen.table) if chosen.table else main(chosen)
