"""The certificate: what was rehearsed and how it went, sealed. The seal is an Ed25519 signature (by openssl) over the certificate's JSON in
one agreed form, so that whatever of it is changed afterwards shows."""
import base64
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile

from programs import Failed, read_json

FORMAT = 1
ALGORITHM = "Ed25519 over the certificate as JSON: keys sorted, no spaces, ASCII"


def agreed_form(certificate):
    return json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def own_key_file():
    return pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config") / "zpair" / "drill-key.pem"


def prepare_key(key_file):
    """Makes it when there is none. Failed when it could seal nothing: to be known before the drills, not after."""
    key_file = pathlib.Path(key_file)
    if not key_file.exists():
        _make_key(key_file)
    if b"ED25519" not in _openssl("pkey", "-in", key_file, "-noout", "-text").upper():
        raise Failed(f"{key_file} is no Ed25519 key: give another one by --key, or a name where none is yet")


def seal(certificate, key_file):
    """The file's contents. The key is there: prepare_key()."""
    message = agreed_form(certificate)
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder, "message")
        text.write_bytes(message)
        signature = _openssl("pkeyutl", "-sign", "-rawin", "-inkey", key_file, "-in", text)
    return {"certificate": certificate,
            "seal": {"algorithm": ALGORITHM, "sha256": hashlib.sha256(message).hexdigest(), "signature": base64.b64encode(signature).decode(),
                     "public_key": _openssl("pkey", "-in", key_file, "-pubout").decode()}}


def _make_key(key_file):
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = _openssl("genpkey", "-algorithm", "ed25519")
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
    except OSError as error:
        raise Failed(f"cannot make the key that seals certificates: {key_file}: {error.strerror}") from None


def read(path):
    """The sealed file as a value; Failed when it is none."""
    file, value = read_json(path, "certificate.json", "certificate of zpair drill")
    if not isinstance(value, dict) or not isinstance(value.get("certificate"), dict) or not isinstance(value.get("seal"), dict) \
            or value["certificate"].get("format") != FORMAT:
        raise Failed(f"{file} is no certificate of zpair drill, or of another version's: its format is not {FORMAT}")
    return value


def verify(sealed, public_key_file=None):
    """The fingerprint of the key that sealed it. Failed: it was changed, or (with a key) somebody else sealed it."""
    seal_of_it, message = sealed["seal"], agreed_form(sealed["certificate"])
    try:
        key, signature = seal_of_it["public_key"].encode(), base64.b64decode(seal_of_it["signature"], validate=True)
    except (KeyError, AttributeError, ValueError):
        raise Failed("its seal cannot be read") from None
    if public_key_file is not None:
        try:
            wanted = pathlib.Path(public_key_file).read_bytes()
        except OSError as error:
            raise Failed(f"cannot read {public_key_file}: {error.strerror}") from None
        if fingerprint(wanted) != fingerprint(key):
            raise Failed(f"sealed by another key ({fingerprint(key)}) than {public_key_file} ({fingerprint(wanted)})")
    if hashlib.sha256(message).hexdigest() != seal_of_it.get("sha256"):
        raise Failed("the certificate was changed after it was sealed: its hash is another one")
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder, name) for name in ("message", "signature", "key")]
        for file, contents in zip(files, (message, signature, key)):
            file.write_bytes(contents)
        done = subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", files[2], "-sigfile", files[1], "-in", files[0]],
                              capture_output=True)
    if done.returncode != 0:
        raise Failed("the certificate was changed after it was sealed, or the seal was: the signature does not fit")
    return fingerprint(key)


def fingerprint(public_key):
    """As ssh shows its keys: of the key's own bytes. A private key's file is answered by its public part."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(public_key)
        file.flush()
        public = [] if b"PRIVATE" in public_key else ["-pubin"]
        der = _openssl("pkey", *public, "-in", file.name, "-pubout", "-outform", "DER")
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def _openssl(*words):
    try:
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True)
    except OSError:
        raise Failed("openssl is not installed, and it seals certificates: apt install openssl") from None
    if done.returncode != 0:
        raise Failed(f"openssl {' '.join(map(str, words[:3]))}: {done.stderr.decode(errors='replace').strip().splitlines()[:1] or 'failed'}")
    return done.stdout
