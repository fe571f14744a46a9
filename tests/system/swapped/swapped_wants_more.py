"""Another version of the feature set, which would publish what its manifest does not name."""

import swapped

from tickerml.kernel import FeatureSetSpec, FeatureVector, SubmitOrder, hookimpl


@hookimpl
def tickerml_feature_sets() -> list[FeatureSetSpec]:
    return [
        FeatureSetSpec(
            id="swapped",
            factory=swapped.Swapped,
            options=swapped.SwappedOptions,
            publishes=(FeatureVector, SubmitOrder),
            columns=("number", "mixed"),
        )
    ]
