"""Draw the secrets that the containers of one machine share, once: `python draw_secrets.py FOLDER`.

Each is a file in FOLDER, named as the settings want it. The containers have different users, and share the folder
as a volume that nothing else sees, so every user in them may read the files.
"""

import base64
import secrets
import sys
from pathlib import Path


def keep(file: Path, value: str) -> str:
    """Write a value into a file, whole or not at all, unless there is one; return what it holds then."""
    if not file.exists():
        new = file.with_suffix(".new")
        new.write_text(value)
        new.chmod(0o444)
        new.rename(file)
    return file.read_text()


def main() -> None:
    """Draw all of them."""
    folder = Path(sys.argv[1])
    keep(folder / "secret_keys", secrets.token_urlsafe(32))
    keep(folder / "webhook_secret", f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")
    password = keep(folder / "database_password", secrets.token_urlsafe(32))
    keep(folder / "database_url", f"postgresql+psycopg://momalisa:{password}@postgres/momalisa")


main()
