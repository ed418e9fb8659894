"""Writes calibrated.json: what calibrated compression makes of a small matrix, by NumPy in float64.

Written from the papers, apart from the program: error compensation goes by the Cholesky factor of the inverse Hessian
(GPTQ, arXiv:2210.17323; SparseGPT, arXiv:2301.00774), where the program has none. tests/distributed/calibrated_test.cpp
holds the program to it. Run it again, from anywhere, when a method is to decide otherwise.
"""

import json
import pathlib

import numpy as np

ROWS, COLS, TOKENS, GROUP, DAMPING = 6, 160, 200, 32, 0.1
F = np.float32


def number(seed, rows, cols):
    """test::number() of tests/distributed/support.hpp: [rows × cols]."""
    with np.errstate(over="ignore"):
        i = np.asarray(rows, dtype=np.uint64)[:, None]
        j = np.asarray(cols, dtype=np.uint64)[None, :]
        z = (np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + i * np.uint64(0xD1B54A32D192ED03)
             + j * np.uint64(0x8CB92BA72F3D8DD7))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(F) / F(8388608) - F(1)


W = number(3, range(ROWS), range(COLS))
LOUD = np.where(np.arange(COLS) % 50 == 3, F(20), F(1))
X = LOUD * (number(21, range(TOKENS), range(COLS)) + number(22, range(TOKENS), np.arange(COLS) % 5))
assert X.dtype == F and W.dtype == F

X64 = X.astype(np.float64)
MEAN_SQUARE = (X64 ** 2).mean(0)
HESSIAN = X64.T @ X64 / TOKENS
HESSIAN += DAMPING * HESSIAN.diagonal().mean() * np.eye(COLS)


def code(w, scale):
    return np.rint(np.clip(F(w) * (F(1) / scale), F(-8), F(7))).astype(F) if scale != 0 else F(0) * F(w)


def extreme_scale(w):
    return w[np.argmax(np.abs(w))] / F(-8)


def searched_scale(w, cost):
    """The least weighted error of 35 scales, the extreme one first."""
    extreme = extreme_scale(w)
    shrink = [F(1) - F(0.025) * F(step) for step in range(17)]
    candidates = [extreme] + [extreme * s for s in shrink] + [extreme * F(-8 / 7) * s for s in shrink]
    losses = [float((cost * (w - s * code(w, s)).astype(np.float64) ** 2).sum()) for s in candidates]
    return candidates[int(np.argmin(losses))]


class Spanning:
    """Asymmetric codes: [least, most] with 0 on a code of its own."""

    def __init__(self, low, high, least, most):
        self.low, self.high = F(low), F(high)
        codes = F(high - low)
        self.scale = most / codes - least / codes
        self.zero = F(np.clip(np.rint(self.low - least / self.scale), self.low, self.high))

    def code(self, w):
        shifted = np.clip(F(w) * (F(1) / self.scale), self.low - self.zero, self.high - self.zero)
        return np.rint(shifted) + self.zero

    def back(self, code):
        return self.scale * (code - self.zero)


def spanning(w, low, high, cost=None):
    """The widest grid, or the one of least weighted error among those shrunk by up to 0.4."""
    least, most = min(F(0), w.min()), max(F(0), w.max())
    grids = [Spanning(low, high, least * (F(1) - F(0.025) * F(s)), most * (F(1) - F(0.025) * F(s))) for s in range(17)]
    if cost is None:
        return grids[0]
    losses = [float((cost * (w - g.back(g.code(w))).astype(np.float64) ** 2).sum()) for g in grids]
    return grids[int(np.argmin(losses))]


def asymmetric(low, high, group, cost=None):
    codes, scales, zeros = np.zeros(W.shape, int), [], []
    for i, row in enumerate(W):
        for g in range(0, COLS, group):
            part = slice(g, g + group)
            grid = spanning(row[part], low, high, None if cost is None else cost[part])
            codes[i, part] = grid.code(row[part])
            scales.append(float(grid.scale))
            zeros.append(int(grid.zero))
    return codes, scales, zeros


def gptq_asymmetric():
    upper = conditional_deviations(HESSIAN)
    cost = 1 / upper.diagonal() ** 2
    codes, scales, zeros = np.zeros(W.shape, int), [], []
    for i in range(ROWS):
        w = W[i].astype(np.float64)
        for p in range(COLS):
            if p % GROUP == 0:
                grid = spanning(w[p:p + GROUP].astype(F), -8, 7, cost[p:p + GROUP])
                scales.append(float(grid.scale))
                zeros.append(int(grid.zero))
            codes[i, p] = grid.code(w[p])
            error = (w[p] - float(grid.scale) * (codes[i, p] - float(grid.zero))) / upper[p, p]
            w[p + 1:] -= error * upper[p, p + 1:]
    return codes, scales, zeros


def gptq_int8():
    """One scale a row, of least weighted error, before channels are met."""
    upper = conditional_deviations(HESSIAN)
    codes, scales = np.zeros(W.shape, int), []
    for i in range(ROWS):
        widest = np.abs(W[i]).max() / F(127)
        candidates = [widest] + [widest * (F(1) - F(0.025) * F(s)) for s in range(17)]

        def int8(w, s):
            return np.rint(np.clip(F(w) * (F(1) / s), F(-127), F(127)))

        losses = [float((MEAN_SQUARE * (W[i] - s * int8(W[i], s)).astype(np.float64) ** 2).sum()) for s in candidates]
        scale = candidates[int(np.argmin(losses))]
        scales.append(float(scale))
        w = W[i].astype(np.float64)
        for p in range(COLS):
            codes[i, p] = int8(w[p], scale)
            error = (w[p] - float(scale) * codes[i, p]) / upper[p, p]
            w[p + 1:] -= error * upper[p, p + 1:]
    return codes, scales


def nearest(weights, scale_of):
    codes, scales = np.zeros(weights.shape, int), []
    for i, row in enumerate(weights):
        for g in range(0, COLS, GROUP):
            scale = scale_of(row[g:g + GROUP], slice(g, g + GROUP))
            scales.append(float(scale))
            codes[i, g:g + GROUP] = code(row[g:g + GROUP], scale)
    return codes, scales


def conditional_deviations(hessian):
    """U upper triangular with UᵀU = H⁻¹."""
    return np.linalg.cholesky(np.linalg.inv(hessian)).T


def gptq(order=None):
    ordered = order is not None
    order = np.arange(COLS) if order is None else order
    upper = conditional_deviations(HESSIAN[np.ix_(order, order)])
    cost = 1 / upper.diagonal() ** 2
    codes = np.zeros(W.shape, int)
    static = np.array(nearest(W, lambda w, s: searched_scale(w, MEAN_SQUARE[s]))[1], F).reshape(ROWS, -1)
    scales = np.zeros_like(static)
    for i in range(ROWS):
        w = W[i, order].astype(np.float64)
        for p, channel in enumerate(order):
            g = channel // GROUP
            if ordered:
                scales[i, g] = static[i, g]
            elif channel % GROUP == 0:
                scales[i, g] = searched_scale(w[p:p + GROUP].astype(F), cost[p:p + GROUP])
            codes[i, channel] = code(w[p], scales[i, g])
            error = (w[p] - float(scales[i, g]) * codes[i, channel]) / upper[p, p]
            w[p + 1:] -= error * upper[p, p + 1:]
    return codes, [float(s) for s in scales.ravel()]


def awq():
    loudness = np.abs(X64).mean(0)
    loudness /= loudness.mean()
    best = None
    for step in range(21):
        powers = loudness ** (step / 20)
        scales = (powers / np.sqrt(powers.min() * powers.max())).astype(F)
        scaled = W * scales
        codes, steps = nearest(scaled, lambda w, s: extreme_scale(w))
        back = np.repeat(np.array(steps, F).reshape(ROWS, -1), GROUP, axis=1) * codes.astype(F)
        loss = ((((scaled - back).astype(np.float64) / scales) ** 2) * MEAN_SQUARE).sum()
        if best is None or loss < best[0]:
            best = (loss, scales)
    scales = best[1]
    cost = MEAN_SQUARE / scales.astype(np.float64) ** 2
    return *nearest(W * scales, lambda w, s: searched_scale(w, cost[s])), [float(s) for s in scales]


def smooth():
    scales = (np.abs(X64).max(0) ** 0.5 / np.abs(W.astype(np.float64)).max(0) ** 0.5).astype(F)
    scaled = W * scales
    peak = np.abs(scaled).max(1)
    codes = np.rint(np.clip(scaled * (F(127) / peak)[:, None], F(-127), F(127)))
    return codes, [float(s) for s in peak / F(127)], [float(s) for s in scales]


def largest(scores, kept):
    mask = np.zeros(scores.shape, int)
    for row, score in zip(mask, scores):
        row[np.argsort(-score, kind="stable")[:kept]] = 1
    return mask


def two_of_four(scores):
    return largest(scores.reshape(-1, 4), 2).reshape(scores.shape)


def largest_of_all(scores, kept):
    return largest(scores.reshape(1, -1), kept).reshape(scores.shape)


def blocks(scores, rows, cols, kept):
    """Of each row of blocks, those of largest norm; the last row of blocks may be short."""
    mask = np.zeros(scores.shape, int)
    for top in range(0, ROWS, rows):
        norms = (scores[top:top + rows] ** 2).sum(0).reshape(-1, cols).sum(1)
        mask[top:top + rows] = np.repeat(largest(norms[None], kept)[0], cols)
    return mask


def n_of_m(scores, n, m):
    return largest(scores.reshape(-1, m), n).reshape(scores.shape)


def compensated(mask):
    upper = conditional_deviations(HESSIAN)
    w = W.astype(np.float64)
    for p in range(COLS):
        error = np.where(mask[:, p] == 1, 0, w[:, p]) / upper[p, p]
        w[:, p] *= mask[:, p]
        w[:, p + 1:] -= np.outer(error, upper[p, p + 1:])
    return w


def flat(array):
    return [int(v) for v in np.asarray(array).ravel()]


def quantized(codes, scales, input_scales=(), zero_points=()):
    return {"codes": flat(codes), "scales": scales, "input_scales": list(input_scales),
            "zero_points": list(zero_points)}


def with_zeros(codes, scales, zeros):
    return quantized(codes, scales, (), zeros)


def pruned(mask, values):
    return {"mask": flat(mask), "values": [float(F(v)) for v in (values * mask).ravel()]}


def low_rank(weights, rank, hessian):
    """U·V of least error on tokens of this Hessian: the projection on the largest eigenvectors of W·H·Wᵀ, which needs no
    root of H."""
    vectors = np.linalg.eigh(weights @ hessian @ weights.T)[1][:, -rank:]
    return vectors @ (vectors.T @ weights)


def damped(gram, damping):
    return gram + damping * gram.diagonal().mean() * np.eye(COLS)


def product(weights):
    return {"product": [float(F(v)) for v in weights.ravel()]}


def corrected(codes, scales, hessian):
    back = np.repeat(np.array(scales).reshape(ROWS, -1), GROUP, axis=1) * codes
    rest = (W - back).astype(F).astype(np.float64)
    return {**quantized(codes, scales), **product(low_rank(rest, 2, hessian))}


GRAM = X64.T @ X64 / TOKENS
PLAIN, CHANNELS = np.eye(COLS), np.diag(MEAN_SQUARE)
DELTA = number(23, range(TOKENS), range(ROWS)).astype(np.float64)
gradient = np.abs(W.astype(np.float64)) * np.sqrt((DELTA ** 2).T @ (X64 ** 2) / TOKENS)
wanda = np.abs(W.astype(np.float64)) * np.sqrt(MEAN_SQUARE)
expected = {
    "rtn": quantized(*nearest(W, lambda w, s: extreme_scale(w))),
    "mse": quantized(*nearest(W, lambda w, s: searched_scale(w, MEAN_SQUARE[s]))),
    "gptq": quantized(*gptq()),
    "gptq_ordered": quantized(*gptq(np.argsort(-MEAN_SQUARE, kind="stable"))),
    "awq": quantized(*awq()),
    "smooth": quantized(*smooth()),
    "wanda": pruned(largest(wanda, COLS // 2), W),
    "wanda_2_4": pruned(two_of_four(wanda), W),
    "sparsegpt": pruned(largest(wanda, COLS // 2), compensated(largest(wanda, COLS // 2))),
    "rtn_asymmetric": with_zeros(*asymmetric(-8, 7, GROUP)),
    "mse_asymmetric": with_zeros(*asymmetric(-8, 7, GROUP, MEAN_SQUARE)),
    "gptq_asymmetric": with_zeros(*gptq_asymmetric()),
    "int8_asymmetric": with_zeros(*asymmetric(-128, 127, COLS)),
    "int8_gptq": quantized(*gptq_int8()),
    "gradient": pruned(largest(gradient, COLS // 2), W),
    "gradient_global": pruned(largest_of_all(gradient, ROWS * COLS // 2), W),
    "magnitude_global": pruned(largest_of_all(np.abs(W), ROWS * COLS // 2), W),
    "wanda_5_16": pruned(n_of_m(wanda, 5, 16), W),
    "sparsegpt_5_16": pruned(n_of_m(wanda, 5, 16), compensated(n_of_m(wanda, 5, 16))),
    "sparsegpt_block": pruned(blocks(wanda, 4, 8, 10), compensated(blocks(wanda, 4, 8, 10))),
    "lowrank": product(low_rank(W.astype(np.float64), 3, PLAIN)),
    "lowrank_scaled": product(low_rank(W.astype(np.float64), 3, damped(CHANNELS, 0.01))),
    "lowrank_whitened": product(low_rank(W.astype(np.float64), 3, damped(GRAM, 0.01))),
    "sum": corrected(*nearest(W, lambda w, s: extreme_scale(w)), damped(GRAM, 0.01)),
    "sum_gptq": corrected(*gptq(), damped(GRAM, 0.01)),
    "sparsegpt_2_4": pruned(two_of_four(np.abs(W)), compensated(two_of_four(np.abs(W)))),
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text("{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in expected.items()) + "\n}\n")
