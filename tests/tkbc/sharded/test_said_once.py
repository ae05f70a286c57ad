"""An error that several processes meet is told by one of them; all end with its status."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from memplan.errors import DoesNotFitError, FailedElsewhereError
from tkbc.sharded.connected import Meeting, said_once


def test_the_first_tells_and_the_others_keep_quiet() -> None:
    store = dist.HashStore()
    with pytest.raises(DoesNotFitError), said_once(Meeting(store, 1, 2)):
        raise DoesNotFitError("no room")
    with pytest.raises(FailedElsewhereError) as quiet, said_once(Meeting(store, 0, 2)):
        raise DoesNotFitError("no room")
    assert quiet.value.exit_code == DoesNotFitError.exit_code
    with pytest.raises(FailedElsewhereError) as elsewhere, said_once(Meeting(store, 0, 2)):
        raise FailedElsewhereError
    assert elsewhere.value.exit_code == 1
