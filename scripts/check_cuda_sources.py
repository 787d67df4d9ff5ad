#!/usr/bin/env python3
"""Compiles the CUDA sources of csrc as a program does on a GPU, but needs none: only NVRTC, from libtorch's CUDA build.

    scripts/check_cuda_sources.py [LIBTORCH]

Says so and succeeds where there is no NVRTC.
"""

import ctypes
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROCESSORS = ["sm_80", "sm_90", "sm_100"]  # Ampere, the first with bfloat16, to Blackwell
WIDTHS = {"add_norm.cu": [64, 192, 1024]}  # of a token; other sources do not depend on it


def find_compiler(libtorch):
    """NVRTC, beside the folder of libtorch, where Python's wheels put it."""
    # NVRTC looks for its builtins by name; loaded before, they are found.
    libraries = ["libnvrtc-builtins.so.*", "libnvrtc.so.*"]
    found = [sorted((libtorch.resolve().parent / "nvidia").glob(f"*/lib/{library}")) for library in libraries]
    return [ctypes.CDLL(str(paths[0])) for paths in found][1] if all(found) else None


def strings(texts):
    return (ctypes.c_char_p * len(texts))(*texts)


def supported_by(nvrtc):
    """The architectures that this NVRTC compiles for, as sm_ and a number."""
    count = ctypes.c_int()
    nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    nvrtc.nvrtcGetSupportedArchs(numbers)
    return {f"sm_{number}" for number in numbers}


def compile_source(nvrtc, source, headers, options):
    """The messages of the compiler if it fails, or None."""
    program = ctypes.c_void_p()
    texts, names = strings([path.read_bytes() for path in headers]), strings([path.name.encode() for path in headers])
    name = source.name.encode()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, len(headers), texts, names):
        return "NVRTC cannot create a program"
    failed = nvrtc.nvrtcCompileProgram(program, len(options), strings([option.encode() for option in options]))
    if not failed:
        return None
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode()


def main():
    nvrtc = find_compiler(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "libtorch"))
    if nvrtc is None:
        print("no NVRTC beside libtorch: not compiled")
        return
    headers, sources = sorted((ROOT / "csrc").glob("*.cuh")), sorted((ROOT / "csrc").glob("*.cu"))
    processors = [processor for processor in PROCESSORS if processor in supported_by(nvrtc)]
    if not processors:
        sys.exit(f"this NVRTC compiles for none of {', '.join(PROCESSORS)}")
    for source in sources:
        for processor in processors:
            for width in WIDTHS.get(source.name, [0]):
                options = [f"--gpu-architecture={processor}", f"-DWIDTH={width}", "--std=c++17"]
                problem = compile_source(nvrtc, source, headers, options)
                if problem is not None:
                    sys.exit(f"{source.name} with {' '.join(options)}:\n{problem}")
    print(f"compiled {', '.join(source.name for source in sources)} for {', '.join(processors)}")


if __name__ == "__main__":
    main()
