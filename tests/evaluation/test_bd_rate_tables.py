from d2_featcomp.evaluation.bd_rate_tables import OF_MEANS, format_bd_rates, write_bd_rates


def bd_entry(seed, percent, note="", column="PSNR"):
    pair = {"anchor": "JPEG", "test": "ours", "column": column, "points": 5, "method": "cubic"}
    return {**pair, "seed": seed, "percent": percent, "note": note}


def test_table_of_bd_rates(tmp_path):
    found = [
        bd_entry(1, -10.0),
        bd_entry(2, -30.0, "little overlap"),
        bd_entry(OF_MEANS, -25.0, "not monotonic; little overlap"),
        bd_entry(None, 5.0, column="mIoU"),
    ]
    found.append(bd_entry(1, float("nan"), "no overlap", column="IRMSE"))
    lines = format_bd_rates(found).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert cells[0][5:] == ["BD-rate", "± (seeds)", "95 % interval", "each", "of mean curves", "note"]
    assert cells[2] == [
        *("ours", "JPEG", "PSNR", "5", "cubic"),
        # 14.14 over sqrt(2), times the 12.706 of Student's distribution for one degree of freedom.
        *("-20.00 %", "14.14", "-147.06 to +107.06", "-10.00, -30.00", "-25.00 %", "1"),
    ]
    assert cells[3][5:] == ["+5.00 %", "-", "-", "+5.00", "-", ""]
    assert lines[4:] == [
        "",
        "1. little overlap; not monotonic",
        "- Cannot be compared by IRMSE: ours against JPEG: no overlap",
    ]
    # Without seeds their columns are left out; where nothing can be compared, the table.
    found_cells = [
        cell.strip() for cell in format_bd_rates([found[3]]).splitlines()[0].strip("|").split("|")
    ]
    assert found_cells == ["curve", "against", "by", "points", "method", "BD-rate", "note"]
    none = [bd_entry(None, float("nan"), "no overlap", column) for column in ("PSNR", "mIoU")]
    assert format_bd_rates(none) == "- Cannot be compared by PSNR, mIoU: ours against JPEG: no overlap"
    assert format_bd_rates([]) == ""
    write_bd_rates(found, str(tmp_path / "bd.csv"))
    assert (tmp_path / "bd.csv").read_text().splitlines()[:2] == [
        "test,anchor,column,points,method,seed,percent,note",
        "ours,JPEG,PSNR,5,cubic,1,-10.0,",
    ]


def test_why_seeds_cannot_be_compared_is_told_once():
    found = [bd_entry(seed, float("nan"), f"covers {seed}") for seed in (1, 2, OF_MEANS)]
    assert format_bd_rates(found) == "- Cannot be compared by PSNR: ours against JPEG: covers mean"
