"""A patient as outputs name them, so that no identifier of a hospital gets into a table."""

import hashlib


def pseudonym(patient: str) -> str:
    """A hash of whatever names a patient: the same wherever and whenever it is made, so that splits can be read again.

    It hides a name from who reads an output; who has a list of names can hash them too, and tell which is there.
    """
    return "patient_" + hashlib.blake2b(patient.encode(), person=b"hgisam", digest_size=8).hexdigest()
