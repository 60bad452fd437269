"""Files that a stranger may send, each with the command that reads it: one plain line, soon, little memory."""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from trust import kit

SECONDS = 10
MIB = 1024


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def large_png(side=13_000, mode=0, depth=8):
    """A PNG of 169 megapixels in few bytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side * (3 if mode == 2 else 1) * depth // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def claiming_png(side):
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def picture(side=8, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def folder_of(content, name="x.png"):
    """A folder with sound pictures and one file."""

    def make(place):
        place.mkdir()
        for number in range(3):
            (place / f"{number}.png").write_bytes(picture())
        (place / name).write_bytes(content() if callable(content) else content)
        return ("train", "data=folder", f"data.path={place}", "data.image_size=8")

    return make


def zip_of(*entries, tamper=None, name="x.zip"):
    """A zip of pictures and entries (name, content)."""

    def make(place):
        place = place.with_name(name)
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(3):
                archive.writestr(f"{number}.png", picture())
            for entry, content in entries:
                archive.writestr(entry, content() if callable(content) else content)
        if tamper is not None:
            place.write_bytes(tamper(place.read_bytes()))
        return ("train", "data=folder", f"data.path={place}", "data.image_size=8")

    return make


def npz(write, suffix=".npz"):
    """A file of arrays."""

    def make(place):
        place = place.with_suffix(suffix)
        content = write(place) if callable(write) else write
        if content is not None:
            place.write_bytes(content)
        return ("train", "data=npz", f"data.path={place}")

    return make


def npy_header(shape, dtype="|u1", magic=b"\x93NUMPY\x01\x00"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (63 - (len(magic) + 2 + len(text)) % 64) + b"\n"
    return magic + struct.pack("<H", len(text)) + text


def npz_bomb(place):
    """Eight gigabytes of zeros in as many megabytes."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            file.write(npy_header((2**33 // 64, 8, 8)))
            block = bytes(2**24)
            for _ in range(2**33 // len(block)):
                file.write(block)


def npz_claim(place):
    """A member that claims more than it has."""
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("images.npy", npy_header((2**34, 8, 8)) + bytes(64))


def npz_objects(place):
    np.savez(place, images=np.array([{"a": 1}, None], dtype=object))


def labels(values):
    def write(place):
        np.savez(place, images=np.zeros((4, 8, 8), np.uint8), labels=np.array(values))

    return npz(write)


def codes(context, suffix=".npz"):
    def make(place):
        place = place.with_suffix(suffix)
        np.savez(place, codes=np.random.default_rng(0).normal(size=(60, 4)).astype("f4"), context=context)
        return ("fit", f"codes={place}", "prior=standard_normal", "seconds=1", "out=fitted")

    return make


def codes_file(content, suffix):
    def make(place):
        place = place.with_suffix(suffix)
        place.write_bytes(content() if callable(content) else content)
        return ("fit", f"codes={place}", "prior=standard_normal", "seconds=1", "out=fitted")

    return make


def pipe(command):
    def make(place):
        os.mkfifo(place.with_suffix(".npz"))
        return command(place.with_suffix(".npz"))

    return make


def of_data(place):
    return ("train", "data=npz", f"data.path={place}")


def of_codes(place):
    return ("fit", f"codes={place}", "seconds=1", "out=fitted")


def of_images(place):
    return ("sample", "run=runs/a/seed_0", "mode=reconstruct", f"images={place}", "out=x.npz")


def index_file(content, suffix):
    """An index of keypoints of DeepFashion."""

    def make(place):
        place.mkdir()
        (place / "0.jpg").write_bytes(picture())
        file = place.with_suffix(suffix)
        file.write_bytes(content() if callable(content) else content)
        return ("train", "data=deepfashion", f"data.images={place}", f"data.index={file}", "model=vunet")

    return make


class Evil:
    """Would make a file if it were unpickled."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def shared_lists():
    """A list of lists of lists, each ten times the same: 10^12 values in a hundred bytes."""
    part = ["x"]
    for _ in range(12):
        part = [part] * 10
    return pickle.dumps({"joint_order": part, "imgs": part, "joints": part})


def deep_pickle():
    return b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b"."


def strangers(change):
    """A run of a stranger, changed; evaluated."""

    def make(place):
        import shutil

        shutil.copytree("runs/a/seed_0", place)
        change(place)
        return ("evaluate", f"run={place}", "metrics=[reconstruction_mse]")

    return make


def config(**changes):
    def change(place):
        tree = yaml.safe_load((place / "config.yaml").read_text())
        (place / "config.yaml").write_text(yaml.safe_dump({**tree, **changes}))

    return strangers(change)


def raw(name, content):
    def change(place):
        (place / name).unlink(missing_ok=True)
        (place / name).write_bytes(content() if callable(content) else content)

    return strangers(change)


def header(size, text=b"{"):
    return struct.pack("<Q", size) + text


def tensor_claim():
    text = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    return header(len(text), text)


def linked(name, target):
    def change(place):
        path = place / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return strangers(change)


FLOW = {"_target_": "pyro_lrp.priors.paper_flow", "dim": 4, "layers": 2, "width": 8}


def report_of(name, content):
    def make(place):
        import shutil

        shutil.copytree("runs/a/seed_0", place)
        (place / name).write_bytes(content() if callable(content) else content)
        return ("report", str(place.parent / place.name))

    return make


def typed(*arguments):
    return lambda place: arguments


def escape_names(place):
    place.mkdir()
    (place / "\x1b[2J\x07evil.png").write_bytes(b"no image")
    return ("train", "data=folder", f"data.path={place}", "data.image_size=8")


def escape_folder(place):
    return ("train", "data=folder", f"data.path={place}/\x1b[31m nothing \x07 here")


def encrypted(content):
    """The flags of all entries say that they are encrypted."""
    content = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(mark, start + 1)
    return bytes(content)


def damaged_directory(content):
    start = content.find(b"PK\x01\x02")
    return content[: start + 10] + b"\xff" * 30 + content[start + 40 :]


def many_levels(place):
    deep = place
    for _ in range(400):
        deep = deep / "d"
    os.makedirs(deep)
    return ("train", "data=folder", f"data.path={place}")


def loop_of_links(place):
    place.mkdir()
    (place / "a").symlink_to(place)
    (place / "b.png").symlink_to("b.png")
    return ("train", "data=folder", f"data.path={place}")


JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03"
)
CODE = b"__import__('os').mkdir('executed')     \n"
LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter + 1, letter + 1, b",".join([b"*%c" % letter] * 9)) for letter in range(97, 110)
)

HOSTILE = {
    # pictures
    "a PNG of 169 megapixels": folder_of(large_png),
    "a PNG of 169 megapixels to reconstruct": lambda place: (
        place.with_suffix(".png").write_bytes(large_png()),
        of_images(place.with_suffix(".png")),
    )[1],
    "a PNG of 169 colour megapixels": folder_of(lambda: large_png(mode=2)),
    "a PNG that claims 100000 squared pixels": folder_of(claiming_png(100_000)),
    "a PNG that claims 9000 squared pixels": folder_of(claiming_png(9000)),
    "a PNG whose text unpacks to 100 MB": folder_of(
        lambda: picture()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9)) + picture()[33:]
    ),
    "a JPEG that claims 65535 squared pixels": folder_of(JPEG, "x.jpg"),
    "half a picture": folder_of(picture()[:40]),
    "an empty picture": folder_of(b""),
    "a text called picture": folder_of(b"hello\n" * 100),
    "names that steer the terminal": escape_names,
    "a folder whose name steers the terminal": escape_folder,
    "400 levels of folders": many_levels,
    "links in a circle": loop_of_links,
    "/usr as a folder of images": typed("train", "data=folder", "data.path=/usr"),
    "/dev as a folder of images": typed("train", "data=folder", "data.path=/dev"),
    "/dev/zero as a folder of images": typed("train", "data=folder", "data.path=/dev/zero"),
    "an unreadable table": folder_of(b"\xff\xfe\x00" * 50, "attributes.csv"),
    "a table of other images": folder_of(b"file,a\nother.png,1\n", "attributes.csv"),
    # zips
    "an encrypted zip": zip_of(tamper=encrypted),
    "half a zip": zip_of(tamper=lambda content: content[: len(content) // 2]),
    "a zip with a damaged directory": zip_of(tamper=damaged_directory),
    "a zip with a damaged picture": zip_of(tamper=lambda content: content[:60] + b"\0" * 40 + content[100:]),
    "a zip whose table unpacks to 1 GB": zip_of(("attributes.csv", lambda: bytes(2**30))),
    "a zip whose picture is 169 megapixels": zip_of(("x.png", large_png)),
    "a zip that climbs": zip_of(("../../x.png", b"no image")),
    # arrays
    "an npz that unpacks to 8 GB": npz(npz_bomb),
    "an npz that claims 2^40 bytes": npz(npz_claim),
    "an npy that claims 2^40 bytes": npz(npy_header((2**34, 8, 8)) + bytes(64), ".npy"),
    "an npy whose header is code": npz(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(CODE)) + CODE, ".npy"),
    "an npz of objects": npz(npz_objects),
    "half an npz": npz(b"PK\x03\x04" + bytes(30)),
    "an empty npz": npz(b""),
    "a pipe as data": pipe(of_data),
    "a pipe as codes": pipe(of_codes),
    "a pipe as images": pipe(of_images),
    "/dev/zero as data": typed("train", "data=npz", "data.path=/dev/zero"),
    "/dev/urandom as data": typed("train", "data=npz", "data.path=/dev/urandom"),
    "a folder as data": typed("train", "data=npz", "data.path=/tmp"),
    "labels of 2^40": labels([0, 1, 2**40, 2**62]),
    "labels that are no numbers": labels([0.5, np.nan, np.inf, 1]),
    "images that are no numbers": npz(lambda place: np.savez(place, images=np.full((9, 8, 8), np.nan))),
    # codes
    "codes with labels of 2^40": codes(np.array([2**40] + [0] * 59)),
    "codes with labels of 100 million": codes(np.array([10**8] + [0] * 59)),
    "codes in a pickle": codes_file(lambda: pickle.dumps(Evil()), ".pt"),
    "codes in half a safetensors": codes_file(header(2**40), ".safetensors"),
    "codes that claim 2^40 numbers": codes_file(tensor_claim, ".safetensors"),
    # indices of keypoints
    "a pickle that executes": index_file(lambda: pickle.dumps(Evil()), ".pkl"),
    "a pickle of lists in lists": index_file(shared_lists, ".pkl"),
    "a pickle of 100,000 levels": index_file(deep_pickle, ".pkl"),
    "a pickle with a memo of 2^31": index_file(b"\x80\x02]r\xff\xff\xff\x7f.", ".pkl"),
    "a pickle that claims 2^40 bytes": index_file(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.", ".pkl"),
    "a gzip that unpacks to 2 GB": index_file(lambda: gzip.compress(bytes(2**27), 9) * 16, ".csv.gz"),
    "half a gzip": index_file(lambda: gzip.compress(b"name:keypoints_y:keypoints_x\n" * 99)[:30], ".csv.gz"),
    # runs
    "a run of a billion layers": config(prior={**FLOW, "layers": 10**9}),
    "a run of a million layers": config(prior={**FLOW, "layers": 10**6}),
    "a run of ten thousand layers": config(prior={**FLOW, "layers": 10_000, "width": 64}),
    "a run that is a billion wide": config(prior={**FLOW, "width": 10**9}),
    "a run that executes": config(prior={"_target_": "os.system", "command": "touch executed"}),
    "a configuration that laughs": raw("config.yaml", LAUGHS),
    "a configuration of an object": raw("config.yaml", b"!!python/object/apply:os.mkdir [executed]\n"),
    "a configuration that is a link": linked("config.yaml", "/etc/passwd"),
    "a checkpoint that is a link": linked("checkpoints/last.safetensors", "/dev/zero"),
    "a checkpoint that claims 2^42 bytes": raw("checkpoints/last.safetensors", tensor_claim),
    "a checkpoint with a header of 2^40": raw("checkpoints/last.safetensors", header(2**40)),
    "a summary of 100,000 levels": raw("summary.json", b'{"a":' * 100_000),
    "an empty summary": raw("summary.json", b"{}"),
    "results that are no results": raw("evaluation.json", b'{"fid": 3, "kid": [], "x": {"value": {}}}'),
    "results of 100 MB": raw("evaluation.json", lambda: b" " * 10**8),
    "images of a run that unpack to 8 GB": lambda place: strangers(
        lambda run: npz_bomb(run / "trained_on.npz")
    )(place),
    "rows that are no rows": report_of("metrics.jsonl", b"\xff\xfe\n[]\n3\n{}\n" * 1000),
    "rows of 100,000 levels": report_of("metrics.jsonl", b"[" * 100_000 + b"\n"),
    # what is typed
    "a million layers": typed("train", "data=fake", "prior.layers=1000000"),
    "a billion layers": typed("train", "data=fake", "prior.layers=1000000000"),
    "images of a million pixels a side": typed("train", "data=fake", "data.image_shape=[3,1000000,1000000]"),
    "a code of a billion": typed("train", "data=fake", "latent_dim=1000000000"),
    "a batch of a billion": typed("train", "data=fake", "batch_size=1000000000"),
    "a billion images": typed("train", "data=fake", "data.n=1000000000"),
    "a billion samples": typed("sample", "run=runs/a/seed_0", "n=1000000000", "out=x.npz"),
    "a figure of no runs": typed("figure", "number=7", "runs=[]"),
    "a name that climbs": typed("train", "data=fake", "name=../../../../etc/x"),
    "a misspelt target": typed("train", "data=fake", "prior._target_=pyro_lrp.priors.Flwo"),
}


def attack(server, place, name):
    """Run one kind in a folder that holds a trained run; returns what is wrong, or None, and the end."""
    with kit.inside(place):
        command, *arguments = HOSTILE[name](place / "hostile")
    end = server.run(command, *arguments, cwd=place, seconds=12 * SECONDS)
    fault = end.fault()
    if fault is None and end.cpu > SECONDS:
        fault = f"took {end.cpu:.0f} s"
    if fault is None and end.mib > MIB:
        fault = f"took {end.mib} MiB"
    if (place / "executed").exists():
        fault = "was executed"
    return fault, end


def names():
    return list(HOSTILE)


def made(place):
    """Remove what an attack left in a folder."""
    import shutil

    for path in Path(place).glob("hostile*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
