"""What a methods section cites; the same entries as in the documentation's bibliography."""

from __future__ import annotations

from typing import Final

__all__ = ["ENTRIES", "Citations"]

#: Key in ``docs/references.bib`` -> entry.
ENTRIES: Final = {
    "jia2025": "Jia S, Lysenko A, Boroevich KA, Sharma A, Tsunoda T (2025). scHDeepInsight: a "
    "hierarchical deep learning framework for precise immune cell annotation in single-cell "
    "RNA-seq data. bioRxiv. doi:10.1101/2025.06.23.661045",
    "sharma2019": "Sharma A, Vans E, Shigemizu D, Boroevich KA, Tsunoda T (2019). DeepInsight: a "
    "methodology to transform a non-image data to an image for convolution neural network "
    "architecture. Scientific Reports 9, 11399. doi:10.1038/s41598-019-47765-6",
    "gayoso2022": "Gayoso A, Lopez R, Xing G and others (2022). A Python library for probabilistic "
    "analysis of single-cell omics data. Nature Biotechnology 40, 163–166. "
    "doi:10.1038/s41587-021-01206-w",
    "guo2017": "Guo C, Pleiss G, Sun Y, Weinberger KQ (2017). On calibration of modern neural "
    "networks. International Conference on Machine Learning, 1321–1330.",
    "vovk2005": "Vovk V, Gammerman A, Shafer G (2005). Algorithmic Learning in a Random World. "
    "Springer.",
    "lee2018": "Lee K, Lee K, Lee H, Shin J (2018). A Simple Unified Framework for Detecting "
    "Out-of-Distribution Samples and Adversarial Attacks. Advances in Neural Information "
    "Processing Systems.",
    "naeini2015": "Naeini MP, Cooper GF, Hauskrecht M (2015). Obtaining well calibrated "
    "probabilities using Bayesian binning. AAAI Conference on Artificial Intelligence, 2901–2907.",
    "kiritchenko2006": "Kiritchenko S, Matwin S, Nock R, Famili AF (2006). Learning and evaluation "
    "in the presence of class hierarchies: application to text categorization. Canadian Conference "
    "on Artificial Intelligence, 395–406.",
}


class Citations:
    """Numbers sources in the order in which a text cites them.

    Examples
    --------
    >>> citations = Citations()
    >>> citations.cite("guo2017"), citations.cite("jia2025", "guo2017")
    ('[1]', '[2, 1]')
    >>> len(citations.entries)
    2
    """

    def __init__(self) -> None:
        self._keys: list[str] = []

    def cite(self, *keys: str) -> str:
        """Give the numbers of some sources in brackets."""
        self._keys += [key for key in keys if key not in self._keys]
        return f"[{', '.join(str(self._keys.index(key) + 1) for key in keys)}]"

    @property
    def entries(self) -> list[str]:
        """What was cited so far, in order."""
        return [ENTRIES[key] for key in self._keys]
