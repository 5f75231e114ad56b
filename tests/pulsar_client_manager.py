"""What a Galaxy does, with Pulsar's own client manager. It runs on the Python that has Pulsar, and so without
anything of ours.

    pulsar_client_manager.py URL USERNAME PASSWORD FOLDER STAGING

Each line of its input is a job, `{"job_id": ..., "command": ...}`; `{output}` in the command is a file that
Pulsar brings back. Each line of its output is a status update as Galaxy gets it.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from pulsar.client.manager import build_client_manager
from pulsar.client.staging.inputs import ClientInputs
from pulsar.client.staging.models import ClientJobDescription, ClientOutputs
from pulsar.client.staging.up import submit_job


def tell(update: Any) -> None:
    sys.stdout.write(json.dumps(update) + "\n")
    sys.stdout.flush()


def main(url: str, username: str, password: str, folder: str, staging: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    manager = build_client_manager(
        relay_url=url,
        relay_username=username,
        relay_password=password,
        relay_cursor_path=f"{folder}/cursors.json",
        relay_handler_id="handler",
    )
    manager.ensure_has_status_update_callback(tell)
    for line in sys.stdin:
        job = json.loads(line)
        working = Path(folder, job["job_id"], "working")
        working.mkdir(parents=True)
        output = str(working.parent / "output.txt")
        destination = {"jobs_directory": staging, "default_file_action": "remote_copy", "url": "none"}
        description = ClientJobDescription(
            command_line=job["command"].format(output=output),
            client_inputs=ClientInputs([]),
            client_outputs=ClientOutputs(str(working), output_files=[output]),
            working_directory=str(working),
        )
        submit_job(manager.get_client(destination, job["job_id"]), description)


if __name__ == "__main__":
    main(*sys.argv[1:])
