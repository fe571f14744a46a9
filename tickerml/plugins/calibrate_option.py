"""What a calibration says of an exchange: an option that sim-fifo takes and `tickerml calibrate` writes."""

from typing import Annotated

import msgspec

from .queue_models import queue_model


class CalibratedQueue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The queue model of one exchange, and what it was chosen by; only the model changes anything.

    Errors are the model's less the truth, so a bias below zero is too early a fill, or a queue thought
    too short. A position is a fraction of the queue that there was at first.
    """

    model: Annotated[str, msgspec.Meta(description="risk-averse, log, power:n, uniform, by-size or l3-exact")]
    version: Annotated[str, msgspec.Meta(description="the day of the data and the start of its hash")] = ""
    source: Annotated[str, msgspec.Meta(description="where the data is from")] = ""
    data_from: Annotated[str, msgspec.Meta(description="when the data begins, UTC")] = ""
    data_until: Annotated[str, msgspec.Meta(description="when it ends, UTC")] = ""
    data_sha256: Annotated[str, msgspec.Meta(description="of every message that was looked at")] = ""
    chosen_by: Annotated[
        str, msgspec.Meta(description="what it errs least in of all models: fill time or position")
    ] = ""
    ghosts: Annotated[int, msgspec.Meta(ge=0, description="how many orders were watched")] = 0
    filled: Annotated[int, msgspec.Meta(ge=0, description="how many would truly have been filled")] = 0
    filled_by_model: Annotated[int, msgspec.Meta(ge=0, description="how many the model fills")] = 0
    fill_time_error_s: Annotated[float, msgspec.Meta(description="mean absolute error")] = 0.0
    fill_time_bias_s: Annotated[float, msgspec.Meta(description="mean error")] = 0.0
    position_error: Annotated[float, msgspec.Meta(description="mean absolute error")] = 0.0
    position_bias: Annotated[float, msgspec.Meta(description="mean error")] = 0.0

    def __post_init__(self) -> None:
        queue_model(self.model)
