"""How PostgreSQL's programs are run for root, who may not run them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess

import pytest

from waystation.stack import postgres
from waystation.stack.layout import Layout


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="root with setpriv alone")
def test_the_other_account_may_look_for_and_run_programs_in_a_hidden_folder(tmp_path):
    hidden = tmp_path / "checkout"
    hidden.mkdir(mode=0o700)
    program = hidden / "program"
    program.write_text("#!/bin/sh\nid -u\n")
    program.chmod(0o755)
    account = pwd.getpwnam(postgres.ROOT_STAND_IN)
    layout = Layout(hidden / "home")
    layout.postgres.mkdir(parents=True)
    passage = postgres._passage(layout, account.pw_uid)
    look = subprocess.run([*passage, shutil.which("test"), "-x", str(program)], check=False)
    run = subprocess.run([*passage, str(program)], capture_output=True, text=True, check=False)
    assert (look.returncode, run.stdout.strip()) == (0, str(account.pw_uid))
