from pathlib import Path

import pytest

from yizhan_testing.stand_ins import write_stand_ins


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder with programs that stand in for homeserver, gateway and bots."""
    folder = tmp_path / "programs"
    write_stand_ins(folder)
    return folder
