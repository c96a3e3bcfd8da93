"""Packaging of iwae_tf."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
INIT = HERE.joinpath("iwae_tf/__init__.py").read_text("utf-8")
CITATION = HERE.joinpath("CITATION.cff").read_text("utf-8")
ADDRESS = re.search(r"^repository-code: (\S+)$", CITATION, re.MULTILINE)

# A package index shows the README without the files that it links to. So it is given no
# paragraph with a picture of the repository, and links to the web only.
README = HERE.joinpath("README.md").read_text("utf-8")
README = re.sub(r"(?m)^!\[[^]]*\]\((?!https:).*\n(.+\n)*\n", "", README)
README = re.sub(r"\[([^]]*)\]\((?!https:)[^)]*\)", r"\1", README)

FOLDERS = ("data", "measures", "models", "plots", "runs")

setup(
    name="iwae_tf",
    version=re.search(r'__version__ = "(.+)"', INIT)[1],
    description="Importance weighted autoencoders in TensorFlow 2 and Keras 3",
    long_description=README,
    long_description_content_type="text/markdown",
    author="The iwae_tf authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    project_urls={"Repository": ADDRESS[1]} if ADDRESS else {},
    keywords=[
        "importance weighted autoencoder",
        "variational autoencoder",
        "variational inference",
        "tensorflow",
        "keras",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=["iwae_tf", *(f"iwae_tf.{folder}" for folder in FOLDERS)],
    package_data={"iwae_tf": ["py.typed", "trained/*/*", "trained/*/checkpoints/*"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "absl-py>=2.1",
        "filelock>=3.20",
        "h5py>=3.11",
        "importlib_resources>=6",  # tensorflow-datasets 4.9.10 does not ask for it.
        "keras>=3.14,<3.16",
        "lazy_loader>=0.5",
        "matplotlib>=3.9",
        "numpy>=2,<3",
        "pillow>=10",
        "requests>=2.31",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tensorboard>=2.20,<2.22",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10,<5",
        "tensorflow-probability[tf]>=0.25,<0.26",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "docs": [
            "latex2mathml>=3.77,<4",
            "mkdocs-material>=9.8,<10",
            "mkdocstrings-python>=2,<3",
        ],
        "pandas": ["pandas>=2.2"],
        "ray": ["ray>=2.40"],
        "test": [
            "arviz-stats>=0.8",
            "build",
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff==0.17.5",
        ],
    },
    entry_points={"console_scripts": ["iwae=iwae_tf.commands:main"]},
)
