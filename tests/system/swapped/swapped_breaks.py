"""Another version of the feature set, which cannot be imported."""

raise RuntimeError("this version is broken")
