"""Trees of every shape, as nested mappings."""

NESTED = {
    "two levels": {"T": ["CD4", "CD8", "gd"], "B": ["naive", "memory"]},
    "flat": {"T": [], "B": [], "NK": []},
    # Single children below the root and further down, leaves at every level, repeated names.
    "ragged": {
        "T": {"CD4": ["naive", "Th1", "Th2"], "CD8": ["naive"], "gd": []},
        "MAIT": ["MAIT"],
        "B": ["naive", "memory"],
        "NK": [],
    },
}
