#!/usr/bin/env bash
# Nsight Compute's counters of each native kernel on a layer of 28672×8192, at one token and at 2048, as a table.
#   scripts/profile_gpu_kernels.sh [BUILD_FOLDER]
# profile_gpu.sh prints all of one case. About three minutes: the cases with many tokens come last.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-build-cuda}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1 || true)
echo "${gpu:-GPU unknown}, $("$build/lamina" --version)"
echo
echo "| scheme | tokens | kernel | µs | DRAM % | L2 % | L1 % | SM % | issue slots % | eligible warps | registers |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
while read -r name tokens kernel scheme; do
  printf '{"name": "profile", "measure": {"min_samples": 2, "max_seconds": 0.01}, "experiments": [{"workload": "layer",
    "in_features": 8192, "out_features": 28672, "tokens": %s, "device": "cuda", "scheme": %s}]}' \
    "$tokens" "$scheme" >"$folder/case.json"
  "$here/profile_gpu.sh" "$folder/case.json" "$kernel" "$build" >"$folder/out" 2>&1 || true
  awk -v name="$name" -v tokens="$tokens" -v kernel="$kernel" '
    function last(unit) { value = $NF; gsub(",", "", value); return value }
    /^ +Duration / { at["us"] = last() * ($(NF - 1) == "ms" ? 1000 : $(NF - 1) == "ns" ? 0.001 : 1) }
    /^ +DRAM Throughput/ { at["dram"] = last() }
    /^ +L2 Cache Throughput/ { at["l2"] = last() }
    /^ +L1\/TEX Cache Throughput/ { at["l1"] = last() }
    /^ +Compute \(SM\) Throughput/ { at["sm"] = last() }
    /^ +Issue Slots Busy/ { at["issue"] = last() }
    /^ +One or More Eligible/ { if (!at["issue"]) at["issue"] = last() }
    /^ +Eligible Warps Per Scheduler/ { at["warps"] = last() }
    /^ +Registers Per Thread/ { at["registers"] = last() }
    END { printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name, tokens, kernel, at["us"], at["dram"],
      at["l2"], at["l1"], at["sm"], at["issue"], at["warps"], at["registers"] }' "$folder/out"
done <<'CASES'
dense-bf16 1 gemv_kernel {"type": "dense", "dtype": "bf16"}
int8-a32 1 decode_kernel {"type": "int8", "activations": "f32"}
fp8 1 decode_kernel {"type": "fp8"}
int4-g128 1 decode_kernel {"type": "int4"}
2:4-bf16 1 decode_kernel {"type": "pruned", "pattern": "2:4", "values": {"type": "dense", "dtype": "bf16"}}
2:4-int4-g128 1 decode_kernel {"type": "pruned", "pattern": "2:4", "values": {"type": "int4"}}
bitmap-50% 1 decode_kernel {"type": "pruned", "values": {"type": "dense", "dtype": "bf16"}}
block16-50% 1 decode_kernel {"type": "pruned", "pattern": "block", "block": 16, "values": {"type": "dense", "dtype": "bf16"}}
int4-g128 16 decode_kernel {"type": "int4"}
int8-a32 2048 prefill_kernel {"type": "int8", "activations": "f32"}
int4-g128 2048 prefill_kernel {"type": "int4"}
2:4-bf16 2048 prefill_kernel {"type": "pruned", "pattern": "2:4", "values": {"type": "dense", "dtype": "bf16"}}
bitmap-50% 2048 expand {"type": "pruned", "values": {"type": "dense", "dtype": "bf16"}}
int8 2048 quantize {"type": "int8"}
CASES
