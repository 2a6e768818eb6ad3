"""How an annotation leaves: as tables, and into an AnnData where asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd

from hdeepinsight._keys import ADDED_KEYS, ONTOLOGY_KEY
from hdeepinsight.annotation._additions import Additions, check_cells, storable
from hdeepinsight.annotation._settings import to_text

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from hdeepinsight.annotation._annotation import Annotation


class WritingMixin:
    """Methods of an annotation that write."""

    def to_frame(self) -> pd.DataFrame:
        """Labels, confidence, margin, stop depth and, where known, novelty; one row a cell.

        Where the taxonomy carries Cell Ontology ids, also those of the cells.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> result.to_frame().columns.tolist()
        ['level_1', 'level_2', 'stop_label', 'confidence', 'margin', 'stop_depth']
        """
        own = cast("Annotation", self)
        beside = [own.confidence, own.margin, own.stop_depth]
        if own.novelty is not None:
            p_value = own.novelty["p_value"].to_numpy()
            beside.append(pd.Series(p_value, name=ADDED_KEYS.NOVELTY))
        if own.taxonomy.ontology_ids:
            beside.append(own.ontology_term_ids)
        return own.labels.assign(**{str(column.name): column.array for column in beside})

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`to_frame` to a CSV file.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels.csv"
        ...     result.to_csv(path)
        ...     path.read_text().splitlines()[1]
        'a,T,CD4,CD4,1.0,1.0,2'
        """
        self.to_frame().to_csv(path, index_label="cell")

    def to_adata(
        self,
        adata: AnnData,
        *,
        key_added: str = "hdi",
        schema: Literal["cellxgene"] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the result into an AnnData of the same cells.

        Parameters
        ----------
        adata
            Object whose ``obs_names`` are those of this annotation, in the same order.
        key_added
            Prefix of what is added: ``obs["<key>_<level>"]``, ``obs["<key>_stop_label"]``,
            ``obs["<key>_confidence"]``, ``obs["<key>_margin"]``, ``obs["<key>_stop_depth"]``,
            ``obs["<key>_novelty_p_value"]`` (of a model with held-out cells),
            ``obs["<key>_cell_type_ontology_term_id"]`` (where the taxonomy carries ids),
            ``obsm["<key>_probabilities"]`` (DataFrame), ``uns["<key>_<level>_colors"]``,
            ``uns["<key>_stop_label_colors"]`` and ``uns["<key>"]`` (reports, recipe).
            Files know no slash in a name, so ``|`` stands for it there.
        schema
            ``"cellxgene"`` writes ``obs["cell_type_ontology_term_id"]`` too, under the name and
            with the values that the CELLxGENE schema asks for. ``cell_type`` is not written: there
            the portal itself derives it from the ids, and refuses files that bring their own.
        overwrite
            Replace what stands under these names. What an earlier annotation wrote under the same
            key is replaced in any case.

        Raises
        ------
        ValueError
            If the cells are not the same, a name is taken, or ids are asked for that the taxonomy
            does not carry. Nothing is written then.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> result.to_adata(cells)
        >>> cells.obs["hdi_stop_label"].tolist(), cells.obsm["hdi_probabilities"].shape
        (['CD4', 'B'], (2, 4))
        """
        own = cast("Annotation", self)
        added = annotation_additions(own, adata, key_added)
        if schema is not None:
            _check_schema(own, schema)
            added.obs[ONTOLOGY_KEY] = own.ontology_term_ids.array
        added.write(adata, key_added, own.to_dict(), overwrite=overwrite)

    def to_dict(self) -> dict[str, Any]:
        """Give settings, reports and recipe in plain types.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> result.to_dict()["decoder"]
        'joint'
        """
        own = cast("Annotation", self)
        reports = {"input_report": own.input_report, "gene_report": own.gene_report}
        decisions = [str(decision) for decision in own.decisions]
        return {
            "decoder": own.decoder,
            "threshold": "none" if own.threshold is None else own.threshold,
            "taxonomy": own.taxonomy.to_json(),
            "recipe": {storable(key): to_text(value) for key, value in own.recipe.items()},
            **{name: str(report) for name, report in reports.items() if report is not None},
            **({"decisions": decisions} if decisions else {}),
        }


def annotation_additions(annotation: Annotation, adata: AnnData, key_added: str) -> Additions:
    """Return everything that an annotation adds to an AnnData of its cells.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
    >>> annotation_additions(result, cells, "hdi").obs["hdi_stop_label"].tolist()
    ['CD4', 'B']
    """
    check_cells(annotation.obs_names, adata, "annotation", "annotated")

    def named(name: str) -> str:
        return storable(f"{key_added}_{name}")

    colors = {
        named(f"{name}_colors"): [annotation.colors[label] for label in column.cat.categories]
        for name, column in annotation.labels.items()
    }
    return Additions(
        obs={named(str(name)): column.array for name, column in annotation.to_frame().items()},
        obsm={named(ADDED_KEYS.PROBABILITIES): annotation.probabilities().rename(columns=storable)},
        uns=colors,
    )


def _check_schema(annotation: Annotation, schema: str) -> None:
    if schema != "cellxgene":
        msg = f"schema={schema!r}; valid is 'cellxgene', or none. Leave it out for our own names."
        raise ValueError(msg)
    if not annotation.taxonomy.ontology_ids:
        msg = (
            "The taxonomy carries no Cell Ontology ids, so every cell would be 'unknown'. Valid is "
            "one with ids. Add them with taxonomy.with_annotations(ontology_ids={'B': "
            "'CL:0000236', ...}), or use Taxonomy.from_cell_ontology."
        )
        raise ValueError(msg)
