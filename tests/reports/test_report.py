"""The report: what it reads, what it survives, and the page itself in a browser."""

import json
import shutil
import subprocess
import time

import pytest
import torch
import yaml

from ebm_lab.cli.report import report
from ebm_lab.core.errors import UserError
from ebm_lab.core.pictures import save_png
from ebm_lab.reports.overview.collect import curves, pictures, read, varied
from ebm_lab.runs.run_directory import RunDir

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;"


def make_run(root, name, objective="dsm", lr=1e-3, gap=0.1, steps=5, pictures=2, status="finished"):
    """A run directory as training leaves it."""
    run = RunDir(root / "runs" / name)
    run.images.mkdir(parents=True)
    groups = {"objective": {"name": objective}, "dataset": {"name": "two_moons"}, "energy": {"name": "mlp"}}
    run.write_config({**groups, "sampler": {"name": "mala"}, "optim": {"name": "adam", "lr": lr}, "seed": 0})
    run.write_summary({"status": status, "nll_gap": gap, "step": steps, "command": "python train.py"})
    rows = [{"step": s + 1, "loss": 1 / (s + 1), "cpu_seconds": 2.0 * s} for s in range(steps)]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(pictures):
        save_png(torch.full((3, 16, 16), 40 * step, dtype=torch.uint8), run.images / f"samples_{step:07d}.png")
    return run


def browse(page, tmp_path, actions):
    """Open the page in headless Chromium, run `actions` in it and return what they put into `out`, with all errors."""
    script = (
        "<script>window.onerror = (m) => { document.body.dataset.errors = (document.body.dataset.errors || '') + m };"
        "</script>",
        "<script>const out = {}; out.loaded = performance.now();"
        f"{actions}; out.errors = document.body.dataset.errors || '';"
        "const pre = document.createElement('pre'); pre.id = 'probe'; pre.textContent = JSON.stringify(out);"
        "document.body.append(pre)</script>",
    )
    html = page.read_text().replace("<main>", script[0] + "<main>", 1)
    probe = tmp_path / "probe.html"
    probe.write_text(html[: html.rindex("</body>")] + script[1] + "</body></html>")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = done.stdout[done.stdout.rindex('<pre id="probe">') + 16 :]
    text = found[: found.index("</pre>")].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


def test_what_differs_between_runs_is_found(tmp_path):
    """The choice first; of the rest only what differs between runs of one choice: dsm's own settings are no news."""
    paths = [
        make_run(tmp_path, "a", "dsm", lr=1e-3).path,
        make_run(tmp_path, "b", "dsm", lr=2e-3).path,
        make_run(tmp_path, "c", "pcd", lr=2e-3).path,
    ]
    assert varied([read(p, 10) for p in paths]) == ["objective.name", "optim.lr"]
    assert varied([read(p, 10) for p in paths[1:]]) == ["objective.name"]


def test_curves_are_thinned_and_keep_their_ends():
    rows = [{"step": s, "loss": float(s), "note": "x", "flag": True} for s in range(1, 1001)]
    thin = curves(rows, 50)
    assert set(thin) == {"loss"} and len(thin["loss"]["step"]) == 50
    assert (thin["loss"]["step"][0], thin["loss"]["step"][-1]) == (1, 1000)
    assert thin["loss"]["value"] == [float(s) for s in thin["loss"]["step"]]


def test_pictures_are_ordered_by_step_and_samples_come_first(tmp_path):
    for name in ("density_0000020.png", "samples_0000100.png", "samples_0000020.png", "other.png"):
        (tmp_path / name).write_bytes(b"")
    found = pictures(tmp_path)
    assert list(found) == ["samples", "density"] and [s for s, _ in found["samples"]] == [20, 100]


def test_damaged_runs_are_shown_with_what_is_wrong(tmp_path):
    good, cut, torn, bare = (make_run(tmp_path, n) for n in "abcd")
    cut.metrics_file.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    torn.summary_file.write_text('{"status": "fin')
    bare.config_file.write_text("a: [1, 2")
    runs = {r.path.name: read(r.path, 10) for r in (good, cut, torn, bare)}
    assert runs["a"]["trouble"] == runs["b"]["trouble"] == [] and runs["b"]["curves"]["loss"]["step"] == [1]
    assert runs["c"]["status"] == "unreadable" and "summary.json" in runs["c"]["trouble"][0]
    assert "config.yaml" in runs["d"]["trouble"][0] and runs["d"]["status"] == "finished"
    report(outputs=str(tmp_path))


def test_a_directory_without_runs_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no runs there; train one with: python train.py"):
        report(outputs=str(tmp_path))
    with pytest.raises(UserError, match="no such directory"):
        report(outputs=str(tmp_path / "nowhere"))


def test_nothing_that_a_run_says_is_html(tmp_path):
    run = make_run(tmp_path, "a")
    config = {**run.read_config(), "note": HOSTILE}
    run.config_file.write_text(yaml.safe_dump(config))
    run.write_summary({"status": HOSTILE, "message": HOSTILE})
    report(outputs=str(tmp_path))
    html = (tmp_path / "report.html").read_text()
    assert "<img" not in html and html.count("</script>") == 2


def test_pictures_beyond_the_budget_are_linked(tmp_path):
    make_run(tmp_path, "a", pictures=3)
    report(outputs=str(tmp_path), embed=0.0)
    html = (tmp_path / "report.html").read_text()
    assert "runs/a/images/samples_0000002.png" in html and "data:image/png" not in html
    report(outputs=str(tmp_path))
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/png") == 3 and "samples_0000002.png" not in html


def test_what_a_run_said_of_its_model_is_in_the_page(tmp_path):
    run = make_run(tmp_path, "2026-01-02_03-04-05.000006_dsm_two_moons_s0")
    line = "the model is worse than a fitted Gaussian by 0.8 nats on the test points (+- 0.01)"
    run.write_summary({"status": "finished", "nll_gap": 0.1, "nll_gaussian": 2.5, "said": [line, 7, HOSTILE]})
    make_run(tmp_path, "2026-01-02_03-04-06.000006_pcd_two_moons_s0").write_summary({"status": "finished", "said": 3})
    report(outputs=str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert line in page and HOSTILE not in page and '"nll_gaussian"' in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_sorts_filters_selects_and_slides(tmp_path):
    make_run(tmp_path, "2026-01-02_03-04-05.000006_dsm_two_moons_s0", "dsm", gap=0.3)
    make_run(tmp_path, "2026-01-02_03-04-06.000006_pcd_two_moons_s0", "pcd", gap=0.1, lr=3e-3)
    make_run(tmp_path, "2026-01-02_03-04-07.000006_nce_two_moons_s0", "nce", gap=0.2, status="diverged")
    hostile = make_run(tmp_path, "odd", "<b>odd</b>", gap=0.4, pictures=0)
    hostile.write_summary({"status": "failed", "nll_gap": 0.4, "message": HOSTILE})
    report(outputs=str(tmp_path))
    seen = browse(
        tmp_path / "report.html",
        tmp_path,
        """
        const names = () => [...document.querySelectorAll("tbody tr button")].map(b => b.textContent);
        const head = text => [...document.querySelectorAll("th button")].find(b => b.textContent.startsWith(text));
        const fire = (node, type) => node.dispatchEvent(new Event(type));
        out.first = names(); head("nll_gap").click(); out.down = names(); head("nll_gap").click(); out.up = names();
        at("filter").value = "pcd"; fire(at("filter"), "input"); out.filtered = names();
        at("filter").value = ""; fire(at("filter"), "input");
        at("status").value = "diverged"; fire(at("status"), "change"); out.diverged = names();
        at("status").value = "all"; fire(at("status"), "change");
        document.querySelector("tbody tr button").click();
        out.picture = at("picture").alt; out.config = at("run").querySelector("pre").textContent;
        const slide = at("run").querySelector("input[type=range]"); slide.value = 0; fire(slide, "input");
        out.slid = at("picture").alt; out.legend = at("legend").children.length;
        at("clear").click(); out.cleared = at("legend").children.length;
        document.querySelectorAll("tbody input")[3].click(); out.drawn = at("legend").textContent;
        out.star = [...document.querySelectorAll("td")].map(c => c.textContent).filter(c => c.includes("★"));
        out.wide = document.documentElement.scrollWidth <= window.innerWidth;
        out.images = document.images.length; out.bold = document.querySelectorAll("b").length;
        """,
    )
    best_first = ["pcd_two_moons_s0", "nce_two_moons_s0", "dsm_two_moons_s0", "odd"]
    assert seen["first"] == seen["up"] == best_first and seen["down"] == best_first[::-1]
    assert seen["filtered"] == ["pcd_two_moons_s0"] and seen["diverged"] == ["nce_two_moons_s0"]
    assert (seen["picture"], seen["slid"]) == ("samples at step 1", "samples at step 0")
    assert "name: pcd" in seen["config"] and seen["legend"] == 4 and seen["cleared"] == 0
    assert seen["drawn"].startswith("odd") and "0.1 ★" in seen["star"]
    assert seen["wide"] and seen["errors"] == "" and seen["images"] == 1 and seen["bold"] == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_five_hundred_runs_open(tmp_path):
    """How soon, as the browser itself counts, is printed: pytest -s."""
    for i in range(500):
        make_run(tmp_path, f"2026-01-02_03-04-05.{i:06d}_dsm_two_moons_s{i}", gap=0.1 + i, lr=1e-3 * (1 + i), steps=200)
    began = time.monotonic()
    report(outputs=str(tmp_path))
    print(f"written in {time.monotonic() - began:.1f} s")
    seen = browse(tmp_path / "report.html", tmp_path, "out.rows = document.querySelectorAll('#table tbody tr').length")
    print(f"drawn after {seen['loaded']:.0f} ms")
    assert seen["rows"] == 200 and seen["errors"] == ""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_one_diverged_run_does_not_flatten_the_others_and_chosen_runs_stand_side_by_side(tmp_path):
    """Of 1, ..., 9 the quartiles are 3 and 7: values from -21 to 31 are within six ranges of them, and 1e9 is not."""
    for i in range(9):
        make_run(tmp_path, f"run{i}", lr=(i + 1) * 1e-3, gap=float(i + 1))
    make_run(tmp_path, "run9", lr=0.1, gap=1e9, pictures=0)
    search = tmp_path / "sweeps" / "mine"
    search.mkdir(parents=True)
    (search / "study.db").touch()
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), search / "history.png")
    report(outputs=str(tmp_path))
    found = browse(
        tmp_path / "report.html",
        tmp_path,
        """
        out.limits = limits([1, 2, 3, 4, 5, 6, 7, 8, 9, 1e9]); out.level = limits([5, 5, 5, 5, 6]);
        state.drawn = new Set(runs); curves();
        const all = selector => [...document.querySelectorAll(selector)];
        out.heads = all("#together tbody th").map(t => t.textContent);
        out.rates = all("#together tbody tr").find(r => r.textContent.startsWith("optim.lr")).textContent;
        out.pictures = all("#together img").length; out.searches = all("#searches img").length;
        out.said = at("scatter").ariaLabel; out.names = all("#legend li").map(l => l.textContent);
        """,
    )
    assert found["errors"] == ""
    assert found["limits"] == [1, 9, 1] and found["level"] == [5, 6, 0]
    assert "optim.lr" in found["heads"] and "seed" not in found["heads"] and "0.003" in found["rates"]
    assert found["pictures"] == 9 and found["searches"] == 1
    assert any("optim.lr=0.003" in name for name in found["names"]) and "nll_gap against optim.lr" in found["said"]
