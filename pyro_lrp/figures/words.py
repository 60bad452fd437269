"""Names of presets, codes and settings in the field's words, for labels of figures."""

from __future__ import annotations

__all__ = ["preset", "symbols"]

_WORDS = {
    "vae": "VAE",
    "beta_vae": "β-VAE",
    "factor_vae": "FactorVAE",
    "vae_flow": "VAE, flow prior",
    "vae_flow_learned_gamma": "VAE, flow prior, learned γ",
    "aae": "AAE",
    "aae_learned": "AAE, learned prior",
    "vae_perceptual": "VAE, flow prior, VGG features",
    "vunet": "Variational U-Net",
    "vunet_flow": "Variational U-Net, flow prior",
    "rae": "RAE",
    "standard_normal": "N(0, I)",
    "mixture": "mixture of normals",
    "flow_on_mixture": "flow on a mixture",
    "flow_matching": "flow matching",
    "vamp": "VampPrior",
    "maf": "MAF",
    "iaf": "IAF",
    "realnvp": "RealNVP",
    "glow": "Glow",
    "digits": "digits (8 × 8)",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "celeba": "CelebA",
    "deepfashion": "DeepFashion",
    "latent_dim": "latent dimensions",
    "beta": "β",
    "gamma": "γ",
}


def preset(name: str | None) -> str:
    """The name of a preset or a setting in the field's words; others are as they are, without underscores.

    Without a name there are no words.

    >>> preset("vae_flow"), preset("fashion_mnist"), preset("noise_floor")
    ('VAE, flow prior', 'Fashion-MNIST', 'noise floor')
    """
    if name is None:
        return ""
    return _WORDS.get(name, name.replace("_", " "))


def symbols(text: str) -> str:
    r"""A label with z_0 and z_T as matplotlib sets formulas; a dollar sign stays one.

    >>> symbols("test 3, z_0")
    'test 3, $z_0$'
    """
    escaped = text.replace("$", r"\$")
    return escaped.replace("z_0", "$z_0$").replace("z_T", "$z_T$")
