"""A real SMTP server on loopback that keeps what it is given and fails on demand. For demos, benches and tests.

`python -m waystation.laboratory --record DIR` runs it as a process; `Laboratory` runs it inside a test.

Faults, by the local part of the recipient's address up to its first `+` or `.` (`later-2+order17@example.org`), or by
full address through `Laboratory.faults` or `--faults FILE` (a JSON object, address to fault name, read again when it
changes). N is a whole number behind a hyphen:

| fault            | what the server does                                              | recorded |
|------------------|-------------------------------------------------------------------|----------|
| `refuse`         | 550 5.1.1 at RCPT                                                 | no       |
| `421`            | 421 4.3.2 at RCPT, then closes                                    | no       |
| `greylist[-N]`   | 451 4.7.1 at RCPT until N seconds (1) after the first try         | then     |
| `tarpit[-N]`     | answers RCPT after N seconds (1)                                  | yes      |
| `cut-data`       | closes instead of answering DATA                                  | no       |
| `cut-early`      | closes at the first bytes of the content                          | no       |
| `refuse-content` | 554 5.7.1 at the final dot                                        | yes      |
| `later[-N]`      | 451 4.3.0 at the final dot the first N times (1), then accepts    | yes      |
| `slow[-N]`       | answers the final dot after N seconds (2)                         | yes      |
| `cut`            | reads all to the final dot, keeps it, closes without an answer    | `cut`    |
| `cut-lost`       | the same, but keeps nothing                                       | no       |
| `garbage`        | keeps the mail, answers the final dot with what is no SMTP reply  | `garbage`|

Replies echo the recipient's address and the subject, as real servers do.
"""

from waystation.laboratory.faults import FAULT_NAMES, Fault, find_fault
from waystation.laboratory.record import RecordedMail, read_record
from waystation.laboratory.server import Laboratory, LaboratorySettings

__all__ = ["FAULT_NAMES", "Fault", "Laboratory", "LaboratorySettings", "RecordedMail", "find_fault", "read_record"]
