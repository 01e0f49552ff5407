"""What schemathesis has to be told beside the documents: a mail is sent as text."""

from __future__ import annotations

import schemathesis

schemathesis.serializer.alias("message/rfc822", "text/plain")
