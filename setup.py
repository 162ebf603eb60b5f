import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "d2_featcomp/__init__.py").read_text(encoding="utf-8"), re.M
).group(1)


class BuildWithModelZoo(build_py):
    """Copies configs and experiment plans into the package; an editable install reads them where they
    are."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return
        model_zoo = Path(self.build_lib, "d2_featcomp", "model_zoo")
        for folder, pattern in (("configs", "**/*.yaml"), ("projects", "*/*.yaml")):
            shutil.rmtree(model_zoo / folder, ignore_errors=True)  # of an earlier build
            for source in sorted((ROOT / folder).glob(pattern)):
                target = model_zoo / source.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


setup(
    name="d2_featcomp",
    version=VERSION,
    author="d2_featcomp contributors",
    description="Collaborative intelligence for Detectron2: compressed features between edge and cloud",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="collaborative intelligence, split inference, feature compression, Detectron2",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["d2_featcomp", "d2_featcomp.*"]),
    package_data={"d2_featcomp": ["py.typed", "serving/*.html"]},
    cmdclass={"build_py": BuildWithModelZoo},
    entry_points={"console_scripts": ["featcomp = d2_featcomp.cli:main"]},
    python_requires=">=3.10",
    # Lowest versions, which tools/test_lowest.sh tests: before torch 2.6 reading weights could run code;
    # HEVC above 8 bits needs PyAV 15, empty tables tabulate 0.10. constriction is the range coder of
    # codec "learned": from the symbols' probabilities to bytes, exactly invertible, in compiled code.
    # What every installation has: bitstreams and codecs. The extra "torch" adds what networks need, the
    # extra "edge" what an exported edge.onnx needs, without PyTorch.
    # Detectron2 itself is on no package index under its own name: README.md tells how to get it.
    install_requires=[
        "numpy>=1.26",
        "imagecodecs>=2024.9.22",
        "pillow>=10",
        "pyyaml>=6",
        "tabulate>=0.10",
        "tqdm>=4.66",
        "constriction>=0.5",
    ],
    extras_require={
        "torch": [
            "torch>=2.6",
            "torchvision>=0.21",
            "fvcore>=0.1.5",
            "iopath>=0.1.9",
            "pycocotools>=2.0.7",
            "matplotlib>=3.8",
            "bjontegaard>=1.3",
            "scipy>=1.11",
        ],
        "edge": ["onnxruntime>=1.18", "httpx>=0.27"],
        "hevc": ["av>=15"],
        "serve": [
            "fastapi>=0.110",
            # Its /docs without another server: the files that FastAPI's own page loads from one.
            "fastapi-offline>=1.7",
            "uvicorn>=0.29",
            "prometheus_client>=0.21",
            "httpx>=0.27",
            "ray[serve]>=2.45 ; python_version < '3.14'",
        ],
        "report": ["plotly>=5.20"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
        "timm": ["timm>=1.0"],
        "demo": ["opencv-python-headless>=4.9"],
        "dev": ["pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11"],
    },
)
