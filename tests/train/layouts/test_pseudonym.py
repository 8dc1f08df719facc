"""What a patient is called in outputs."""

from hgisam.train.layouts.pseudonym import pseudonym


def test_a_patient_is_known_by_a_hash_of_the_name() -> None:
    hidden = pseudonym("Miller 1950")
    assert "Miller" not in hidden
    assert "1950" not in hidden
    assert hidden == pseudonym("Miller 1950") != pseudonym("Miller 1951")
    assert pseudonym("Größe") == "patient_c25fa88c70543456"  # so that splits of last year are of this year's cohort
