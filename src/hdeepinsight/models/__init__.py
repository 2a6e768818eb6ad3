"""Models, one folder each, on a common base; imported on first use because torch loads slowly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_base._annotator": ["Annotator"],
        "_base._classifier": ["HierarchicalClassifierMixin"],
        "_base._count_model": ["CountModel"],
        "_base._plan": ["HierarchicalPlan", "OneCyclePlan"],
        "_base._registry": [
            "ModelFileError",
            "ModelFolder",
            "convert_model",
            "load_model",
            "model_class",
        ],
        "_base._unlabeled": ["UnlabeledMixin"],
        "scagc": ["SCAGC"],
        "dpdcan": ["DPDCAN", "PrivacyReport"],
        "sce2tm": ["SCE2TM", "TopicPerturbation"],
        "schdeepinsight": ["ModuleConfig", "SCHDeepInsight"],
        "sclabelnet": ["SCLabelNet"],
    },
)
