//! The report as one HTML page that needs nothing else, and its plots as files of their own.

use std::fmt::Write;

use crate::chart::{self, Axes, Line, escape};
use crate::report::{Latency, Measured, Report, bytes, count};
use crate::{table, verdict};

const STYLE: &str = "\
:root{color-scheme:light}\
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;color:#1a1a1a;background:#fff;\
max-width:900px;margin:2rem auto;padding:0 20px}\
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}\
p.machine{color:#555;margin:.1rem 0}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;width:100%}\
th,td{padding:.28rem .55rem;border-bottom:1px solid #e5e5e5;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left;white-space:normal}th{border-bottom:2px solid #bbb;font-weight:600}\
td.unit,th.unit{text-align:left;color:#666}td.worse{color:#b02a00}td.better{color:#00674f}\
svg{max-width:100%;height:auto;display:block;margin:.6rem 0 1.2rem}\
.caveat{background:#fff6e0;border-left:3px solid #e69f00;padding:.4rem .8rem}\
@media print{body{margin:0;max-width:none;font-size:11pt}h2{break-after:avoid}svg,table,tr{break-inside:avoid}\
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}@page{margin:15mm}}";

/// A plot with the name of the file that it may be kept in.
pub struct Plot {
    /// Without folder, with `.svg`.
    pub file: String,
    pub svg: String,
}

/// Every plot of the report: bars, curves over time, latencies, archives.
pub fn plots(report: &Report) -> Vec<Plot> {
    let mut plots = Vec::new();
    if report.targets.iter().any(|target| !target.rows.is_empty()) {
        plots.push(Plot { file: "bars.svg".into(), svg: chart::bars(report, "Every workload, each on its own scale") });
    }
    for row in report.rows() {
        let curves = of_each(report, &row.name, |found| found.curve.clone());
        if curves.is_empty() || !row.unit.starts_with("MB") {
            continue;
        }
        let title = format!("Throughput over time: {}", row.label);
        let axes = Axes { title: &title, x: "seconds", y: &row.unit, ticks: None, logarithmic: false };
        plots.push(Plot { file: format!("curve-{}.svg", row.name), svg: chart::lines(&axes, &names(report), &curves) });
    }
    for row in report.rows() {
        let lines = of_each(report, &row.name, |found| found.latency.map(points).unwrap_or_default());
        // Syncing what was created adds time, but no steps.
        if lines.is_empty() || row.unit.starts_with("MB") || row.name == "create-synced" {
            continue;
        }
        let title = format!("Latency: {}", row.label);
        let ticks = ["50 %", "90 %", "99 %", "99.9 %", "longest"].map(str::to_owned).to_vec();
        let axes = Axes { title: &title, x: "percentile", y: "microseconds", ticks: Some(ticks), logarithmic: true };
        plots
            .push(Plot { file: format!("latency-{}.svg", row.name), svg: chart::lines(&axes, &names(report), &lines) });
    }
    plots.extend(archives(report));
    plots
}

fn names(report: &Report) -> Vec<&str> {
    report.targets.iter().map(|target| target.name.as_str()).collect()
}

fn of_each(report: &Report, row: &str, points: impl Fn(&Measured) -> Vec<(f64, f64)>) -> Vec<Line> {
    let found = report.targets.iter().enumerate();
    let lines = found.filter_map(|(target, told)| Some(Line { target, points: points(told.row(row)?) }));
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn points(latency: Latency) -> Vec<(f64, f64)> {
    let values = [latency.p50, latency.p90, latency.p99, latency.p999, latency.longest];
    values.into_iter().enumerate().map(|(index, value)| (index as f64, value)).collect()
}

/// How many times as long single files take, over the size of a file.
fn archives(report: &Report) -> Vec<Plot> {
    let Some(sizes) = report.targets.iter().map(|target| &target.archive).find(|points| points.len() > 1) else {
        return Vec::new();
    };
    let ticks: Vec<String> = sizes.iter().map(|point| bytes(point.size)).collect();
    let ways = [("write", "writing (synced)"), ("read", "reading (cold)")];
    let plot = |(file, what): (&str, &str)| {
        let lines: Vec<Line> = report
            .targets
            .iter()
            .enumerate()
            .filter(|(_, told)| !told.archive.is_empty())
            .map(|(target, told)| {
                let ratio = told.archive.iter().map(|point| match file {
                    "write" => point.files_write / point.archive_write.max(1e-9),
                    _ => point.files_read / point.archive_read.max(1e-9),
                });
                Line { target, points: ratio.enumerate().map(|(index, ratio)| (index as f64, ratio)).collect() }
            })
            .collect();
        let title = format!("Single files against an archive: {what}");
        let axes = Axes {
            title: &title,
            x: "size of a file",
            y: "times as long as one archive (1: no difference)",
            ticks: Some(ticks.clone()),
            logarithmic: true,
        };
        Plot { file: format!("archive-{file}.svg"), svg: chart::lines(&axes, &names(report), &lines) }
    };
    ways.into_iter().map(plot).collect()
}

/// The whole report as one page.
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    let title = format!("cairn bench: {}", names(report).join(", "));
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{0}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n<p class=\"machine\">{1}</p>\n",
        escape(&title),
        escape(&report.machine.to_string())
    );
    let plan = &report.plan;
    let _ = writeln!(
        page,
        "<p class=\"machine\">A file of {}, {} files of {}; median of {} round{}. Cold: the client mounted anew where commands for it were given, \
         the kernel's caches dropped. Synced: until everything is on stable storage.</p>",
        bytes(plan.large_bytes),
        count(plan.small_count),
        bytes(plan.small_bytes),
        plan.rounds,
        if plan.rounds == 1 { "" } else { "s" }
    );
    for target in &report.targets {
        let kind = if target.file_system.is_empty() { String::new() } else { format!(": {}", target.file_system) };
        let _ = writeln!(page, "<p class=\"machine\">{}{}</p>", escape(&target.name), escape(&kind));
        if let Some(caveat) = &target.caveat {
            let _ = writeln!(page, "<p class=\"caveat\">{}: {}</p>", escape(&target.name), escape(caveat));
        }
    }
    for remark in &report.remarks {
        let _ = writeln!(page, "<p>{}</p>", escape(remark));
    }
    write_table(&mut page, report);
    let plots = plots(report);
    section(&mut page, "At a glance", &plots, "bars");
    section(&mut page, "Throughput over time", &plots, "curve-");
    section(&mut page, "Latency", &plots, "latency-");
    let said: Vec<(&str, Vec<String>)> =
        report.targets.iter().map(|target| (target.name.as_str(), verdict::sentences(target))).collect();
    if said.iter().any(|(_, sentences)| !sentences.is_empty()) {
        section(&mut page, "Single files or an archive?", &plots, "archive-");
        for (name, sentences) in said.iter().filter(|(_, sentences)| !sentences.is_empty()) {
            let _ = writeln!(page, "<p><b>{}</b>: {}</p>", escape(name), escape(&sentences.join(" ")));
        }
    }
    if report.targets.iter().any(|target| target.storage.is_some()) {
        let _ = writeln!(page, "<h2>Storage</h2>");
        for target in &report.targets {
            if let Some(sentence) = table::storage(target.storage.as_ref()) {
                let _ = writeln!(page, "<p><b>{}</b>: {}</p>", escape(&target.name), escape(&sentence));
            }
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, title: &str, plots: &[Plot], prefix: &str) {
    let mut mine = plots.iter().filter(|plot| plot.file.starts_with(prefix)).peekable();
    if mine.peek().is_some() {
        let _ = writeln!(page, "<h2>{}</h2>", escape(title));
    }
    mine.for_each(|plot| page.push_str(&plot.svg));
}

fn write_table(page: &mut String, report: &Report) {
    let (headings, lines) = table::table(report);
    if lines.is_empty() {
        return;
    }
    let class = |column: usize| if column == 1 { " class=\"unit\"" } else { "" };
    page.push_str("<h2>Medians</h2>\n<div class=\"wide\"><table><thead><tr>");
    for (column, heading) in headings.iter().enumerate() {
        let _ = write!(page, "<th{}>{}</th>", class(column), escape(heading));
    }
    page.push_str("</tr></thead><tbody>\n");
    for line in lines {
        page.push_str("<tr>");
        for (column, cell) in line.iter().enumerate() {
            let ratio = (column >= 2 + report.targets.len()).then(|| cell.trim_end_matches(" ×").parse::<f64>().ok());
            let class = match ratio.flatten() {
                Some(ratio) if ratio < 0.95 => " class=\"worse\"",
                Some(ratio) if ratio > 1.05 => " class=\"better\"",
                _ => class(column),
            };
            let _ = write!(page, "<td{class}>{}</td>", escape(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}
