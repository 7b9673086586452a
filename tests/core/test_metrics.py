"""Metrics are declared by who reports them, and every table reads the declarations."""

import ebm_lab
from ebm_lab.core.eval_view import Evaluation, Report
from ebm_lab.core.metrics import Metric, Table
from ebm_lab.core.registry import metrics, register
from ebm_lab.reports.compare.columns import column
from ebm_lab.reports.overview.page import page

QUICK = ["objective=pcd", "dataset=eight_gaussians", "dataset.train=300", "dataset.held_out=100", "energy.hidden=[8]"]
QUICK += ["steps=4", "log_every=2", "eval_every=2", "batch_size=32", "samples=30", "sample_steps=10", "logger=none"]
MANY = "c2st,chains,density,fisher,histograms,ksd,likelihood,longrun,mmd,modes,prdc,samples,sm_loss"


def test_what_a_run_reports_is_declared(tmp_path):
    summary_of = [f"evaluation=[{MANY}]", f"output_dir={tmp_path}"]
    summary = ebm_lab.train([*QUICK, *summary_of], quiet=True).summary
    table = metrics()
    reported = {k for k, v in summary.items() if isinstance(v, float) and "second" not in k and k != "best"}
    assert {k for k in reported if table.find(k) is None} == set()


def test_the_order_is_that_of_the_ranks_and_families_answer_for_their_own():
    table = Table([Metric("b", rank=2), Metric("a_*", "family"), Metric("a_1", "own", rank=1)])
    assert [*table.metrics] == ["a_1", "b", "a_*"]
    assert table.find("a_1").title == "own" and table.find("a_2").title == "family" and table.find("c") is None


def test_the_lowest_nll_chooses_the_best_checkpoint_and_else_mmd2():
    assert metrics().monitors == ["nll", "mmd2"]


@register("evaluation", "toy_score")
class Toy(Evaluation):
    metrics = (
        Metric("toy", "toy score", "points", "higher", "made up.", shown=("compare", "report", "sweep"), rank=5),
        Metric("toy_*", "one of many"),
    )

    def __call__(self, view):
        return Report({"toy": 1.0, "toy_7": 2.0})


def test_a_new_evaluation_appears_in_every_table_without_another_edit(tmp_path):
    table = metrics()
    assert [table.shown(place)[0].name for place in ("compare", "report", "sweep")] == ["toy"] * 3
    assert column("toy").title == "toy score" and column("toy").good == "higher" and column("toy").unit == "points"
    assert column("toy_7").title == "one of many" and column("unheard_of").title == "unheard_of"
    html = page([], tmp_path, "runs", 0)
    assert '"shown":["toy","nll_gap"' in html and '"toy"' in html.split('"higher":')[1].split("]")[0]
