"""The error for a name that is not in the list."""

import pytest

from xsub_utils._internal.validation import one_of


def test_a_valid_name_is_given_back():
    assert one_of("metric", "f1", ("accuracy", "f1")) == "f1"


def test_the_error_says_what_would_be_right():
    with pytest.raises(
        ValueError, match=r"metric: expected one of accuracy, f1, got 'acuracy'; did you mean 'accuracy'\?$"
    ):
        one_of("metric", "acuracy", ("accuracy", "f1"))
    with pytest.raises(ValueError, match=r"metric: expected one of accuracy, f1, got 'zzz'$"):
        one_of("metric", "zzz", ("accuracy", "f1"))
