#!/usr/bin/env python3
"""Writes the packages that set-up installs, each pinned to a version and to the SHA-256 of its wheels.

    python3 scripts/make_libtorch_hashes.py INDEX >scripts/libtorch-hashes.txt

INDEX is the address of a package index, the one that `pip config get global.index-url` names or pip's own default. Its
answer is trusted this once; set-up afterwards installs these files and no others. The text is a requirements file of
pip. The versions, which are changed here, meet the requirements of torch on Python 3.10 to 3.14.
"""

import json
import re
import sys
import urllib.request

# torch, what its libtorch_cpu.so links to, and what CUDA and `import torch` need.
BOTH = "torch==2.11.0"
LINUX = "nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96"
CUDA = """
    cuda-toolkit==13.0.2 nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88 nvidia-cudnn-cu13==9.19.0.56
    nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6 nvidia-curand==10.4.0.35 nvidia-cusolver==12.0.4.66
    nvidia-cusparse==12.6.3.3 nvidia-cusparselt-cu13==0.8.0 nvidia-nccl-cu13==2.28.9 nvidia-nvjitlink==13.0.88
    nvidia-nvshmem-cu13==3.4.5 nvidia-nvtx==13.0.85
    filelock==3.20.0 fsspec==2025.10.0 jinja2==3.1.6 markupsafe==3.0.3 mpmath==1.3.0 networkx==3.4.2
    setuptools==80.9.0 sympy==1.14.0 typing-extensions==4.15.0
"""
WHEEL = re.compile(
    r".*-(py3|py2\.py3|cp31[0-4])-\w+-(any|manylinux\S*_(x86_64|aarch64)|macosx_\w+_arm64)\.whl"
)


def hashes(index, requirement):
    """The SHA-256 of the wheels of `name==version` for the platforms that set-up supports, sorted."""
    name, version = requirement.split("==")
    request = urllib.request.Request(f"{index.rstrip('/')}/{name}/")
    request.add_header("Accept", "application/vnd.pypi.simple.v1+json")
    with urllib.request.urlopen(request) as answer:
        files = json.load(answer)["files"]
    start = f"{name}-{version}-".replace("-", "_")
    wheels = [file for file in files if file["filename"].lower().replace("-", "_").startswith(start)]
    found = [file["hashes"]["sha256"] for file in wheels if WHEEL.fullmatch(file["filename"])]
    if not found:
        sys.exit(f"error: {index} has no wheel of {requirement} for these platforms")
    return sorted(found)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_libtorch_hashes.py INDEX")
    print("# Written by scripts/make_libtorch_hashes.py.")
    for title, requirements, marker in [
        ("both kinds", BOTH, ""),
        ("both kinds, on Linux", LINUX, ' ; sys_platform == "linux"'),
        ("with CUDA", CUDA, ""),
    ]:
        print(f"# {title}")
        for requirement in requirements.split():
            lines = [requirement + marker, *(f"--hash=sha256:{digest}" for digest in hashes(sys.argv[1], requirement))]
            print(" \\\n    ".join(lines))


if __name__ == "__main__":
    main()
