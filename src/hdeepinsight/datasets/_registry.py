"""Public files that have a name here, with what is known about each of them."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FILES", "PublicFile", "list_files", "named"]

_TENX = "https://cf.10xgenomics.com/samples/cell-exp"
_OBO = "https://github.com/obophenotype/cell-ontology/releases/download"


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A file on the internet.

    Parameters
    ----------
    name
        What :func:`fetch` calls it.
    url
        Where it is: ``https://...``, or ``doi:.../file`` in an archive (Figshare, Zenodo).
    sha256
        Checksum of its bytes. ``None`` where none is known beforehand: an archive states one, any
        other place is remembered at the first download.
    description
        What it holds.
    license
        Licence under which its owner shares it.
    citation
        What to cite.

    Examples
    --------
    >>> from hdeepinsight.datasets import PublicFile
    >>> PublicFile(name="cells", url="https://example.org/cells.h5ad").sha256 is None
    True
    """

    name: str
    url: str
    sha256: str | None = None
    description: str = ""
    license: str = ""
    citation: str = ""


FILES: Final = {
    file.name: file
    for file in (
        PublicFile(
            name="pbmc3k",
            url="https://exampledata.scverse.org/scanpy/pbmc3k_raw.h5ad",
            # Stated by two projects that have nothing to do with each other.
            sha256="89a96f1beaa2dd83a687666d3f19a4513ac27a2a2d12581fcd77afed7ea653a1",
            description="2,700 blood cells of a donor, 10x 3' v1, raw counts, no labels (h5ad)",
            license="CC BY 4.0",
            citation="10x Genomics, 3k PBMCs from a healthy donor; doi:10.1038/ncomms14049",
        ),
        PublicFile(
            name="pbmc10k_v3",
            url=f"{_TENX}/3.0.0/pbmc_10k_v3/pbmc_10k_v3_filtered_feature_bc_matrix.h5",
            description="About 11,800 blood cells, 10x 3' v3, raw counts, no labels (10x h5)",
            license="CC BY 4.0",
            citation="10x Genomics, 10k PBMCs from a healthy donor (v3 chemistry)",
        ),
        PublicFile(
            name="bone_marrow_s1d1",
            url="doi:10.6084/m9.figshare.22716739.v1/s1d1_filtered_feature_bc_matrix.h5",
            description="Bone marrow of a donor, 10x multiome, raw counts, no labels (10x h5)",
            license="CC BY 4.0",
            citation="Luecken et al. (2021), NeurIPS datasets and benchmarks; Figshare 22716739",
        ),
        PublicFile(
            name="cell_ontology",
            url=f"{_OBO}/v2026-06-08/cl-basic.obo",
            # Stated by four files of three projects that have nothing to do with each other.
            sha256="73996c6349283e7a8cbd8183367a1cb810d0077e9c291ae0c72bd31e869f8c1c",
            description="Cell Ontology, release 2026-06-08 (OBO)",
            license="CC BY 4.0",
            citation="Diehl et al. (2016), doi:10.1186/s13326-016-0088-7",
        ),
    )
}


def list_files() -> pd.DataFrame:
    """List the public files that have a name here.

    Returns
    -------
    One row a file, by its name: ``url``, ``sha256``, ``description``, ``license``, ``citation``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.datasets.list_files().loc["pbmc3k", "license"]
    'CC BY 4.0'
    """
    import pandas as pd

    return pd.DataFrame([asdict(file) for file in FILES.values()]).set_index("name")


def named(name: str) -> PublicFile:
    """Return a file by its name, or an unnamed one by its address.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if name in FILES:
        return FILES[name]
    if name.startswith(("https://", "http://", "doi:")) and not name.endswith("/"):
        return PublicFile(name=name, url=name)
    near = difflib.get_close_matches(name, FILES, n=1)
    meant = f"Did you mean {near[0]!r}?" if near else "Choose one of these."
    raise ValueError(
        f"Found no public file {name!r}. Valid are {', '.join(FILES)}, an address that starts with "
        f"https:// or http://, or doi:.../file. {meant}"
    )
