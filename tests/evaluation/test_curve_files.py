import pytest

from d2_featcomp.evaluation.curve_files import read_curve


def write(folder, text):
    path = folder / "curve.csv"
    path.write_text(text)
    return str(path)


def test_columns_are_found_in_upper_and_lower_case(tmp_path):
    path = write(tmp_path, "BPFE , bbox/AP\n0.1, 30\n0.2, 40\n")
    assert read_curve(path, "bpfe", "BBOX/ap")[:2] == ([0.1, 0.2], [30.0, 40.0])


def test_columns_that_differ_in_case_alone_are_told_apart(tmp_path):
    path = write(tmp_path, "kB,AP,ap\n1,30,0.3\n2,40,0.4\n")
    assert read_curve(path, "kb", "AP").qualities == [30.0, 40.0]
    assert read_curve(path, "kb", "ap").qualities == [0.3, 0.4]
    with pytest.raises(ValueError, match=r"'Ap' is the name of several columns \(AP, ap\)"):
        read_curve(path, "kb", "Ap")


def test_which_of_two_columns_of_one_name_is_not_guessed(tmp_path):
    path = write(tmp_path, "kB,AP,note,AP,note\n1,30,,3,\n")
    with pytest.raises(ValueError, match="'AP' is the name of several columns"):
        read_curve(path, "kB", "AP")


def test_a_file_without_points_tells_so(tmp_path):
    path = write(tmp_path, "kB,AP\n")
    with pytest.raises(ValueError, match="no line has both 'kB' and 'AP': there is nothing to compare"):
        read_curve(path, "kB", "AP")
    with pytest.raises(ValueError, match="no column 'mask'; there are kB, AP"):
        read_curve(path, "kB", "mask")
