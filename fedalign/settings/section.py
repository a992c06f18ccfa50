"""A section of a configuration: a table of settings that refuses what it does not know."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, field_validator

from fedalign.settings.booleans import NUMBER_MEANT, read_as_number


class Section(BaseModel):
    """Settings that refuse unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _numbers_are_no_truth_values(cls, given: Any, read: ValidatorFunctionWrapHandler) -> Any:
        value = read(given)
        if read_as_number(given, value):
            raise ValueError(NUMBER_MEANT)
        return value
