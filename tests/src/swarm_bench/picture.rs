//! Draws a [`Timeline`] so that a person sees the gap between a measurement and its bound.
//!
//! One band a machine, time from left to right; a full band is a full link. What is not filled is
//! time in which the link carried nothing that was kept. Pure: values in, SVG text out.

use emberline_agent::api::Phase;
use svg::{
    Document,
    node::element::{Line, Path, Rectangle, Text, path::Data},
};

use super::{
    report::Report,
    timeline::{Lane, Sample, Timeline},
};

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 76.0;
const BAND: f64 = 56.0;
/// The strip below a band that shows hashing and writing, a full strip being one core.
const STRIP: f64 = 10.0;
const GAP: f64 = 14.0;
/// What the name of a phase takes.
const NAME_ROOM: f64 = 46.0;

const ORIGIN: &str = "#e6722e";
const PEERS: &str = "#3b7dd8";
const IDLE: &str = "#eceff3";
const VERIFY: &str = "#8e5bd0";
const STORE: &str = "#2f9e63";
const LINK: &str = "#20252c";
const CPU: &str = "#b5485d";
const TEXT: &str = "#20252c";

/// The picture of a measurement.
pub fn draw(timeline: &Timeline, report: &Report) -> String {
    let last = timeline.lanes.iter().flat_map(|lane| lane.samples.last()).map(|s| s.at);
    let end = last.fold(report.makespan_seconds, f64::max).max(report.bound_seconds) * 1.02;
    let scale = Scale { end };
    let bands = timeline.lanes.len() + 1;
    let height = TOP + bands as f64 * (BAND + STRIP + GAP) + 30.0;
    let mut page = Document::new()
        .set("viewBox", (0, 0, WIDTH as i64, height as i64))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .add(rectangle(0.0, 0.0, WIDTH, height, "#ffffff"));
    page = heading(page, report);
    let shares = timeline.shares(report.makespan_seconds);
    for (n, lane) in timeline.lanes.iter().enumerate() {
        let top = TOP + n as f64 * (BAND + STRIP + GAP);
        page = band(page, scale, top, &lane.name, shares.get(n).copied().unwrap_or(0.0));
        page = if n == 0 { sent(page, scale, top, lane) } else { arrived(page, scale, top, lane) };
    }
    let top = TOP + timeline.lanes.len() as f64 * (BAND + STRIP + GAP);
    let readings: Vec<f64> = timeline.cpu.iter().map(|r| r.share).collect();
    let mean = readings.iter().sum::<f64>() / readings.len().max(1) as f64;
    page = band(page, scale, top, &format!("{} cores", timeline.cores), mean);
    let cpu: Vec<(f64, f64)> = timeline.cpu.iter().map(|r| (r.at, r.share)).collect();
    page = page.add(area(scale, top, &cpu, &vec![0.0; cpu.len()], CPU));
    for (at, name, dash) in
        [(report.bound_seconds, "bound", "6 3"), (report.makespan_seconds, "last node has published", "2 2")]
    {
        let x = scale.x(at);
        page = page
            .add(
                Line::new()
                    .set("x1", x)
                    .set("x2", x)
                    .set("y1", TOP - 6.0)
                    .set("y2", height - 30.0)
                    .set("stroke", LINK)
                    .set("stroke-dasharray", dash),
            )
            .add(label(x - 4.0, TOP - 10.0, &format!("{name} {at:.2} s"), "end"));
    }
    axis(page, scale, height - 12.0).to_string()
}

#[derive(Clone, Copy)]
struct Scale {
    end: f64,
}

impl Scale {
    fn x(self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.end
    }
}

fn heading(page: Document, report: &Report) -> Document {
    let title = format!(
        "{}: {:.0} MiB to {} nodes of {} Mbit/s, origin {} Mbit/s: {:.2} s = {:.3} × the bound, origin {:.3} × the model",
        report.contender,
        report.model_bytes as f64 / f64::from(1 << 20),
        report.nodes,
        report.rate_mbit,
        report.origin_rate_mbit,
        report.makespan_seconds,
        report.makespan_ratio,
        report.origin_ratio,
    );
    let mut page = page.add(label(LEFT, 18.0, &title, "start").set("font-size", 14));
    let mut x = LEFT;
    for (colour, name) in [
        (ORIGIN, "from the origin"),
        (PEERS, "from peers"),
        (IDLE, "link idle"),
        (LINK, "passed the link"),
        (VERIFY, "hashing"),
        (STORE, "writing (strip = 1 core)"),
        (CPU, "cores busy"),
    ] {
        page = page.add(rectangle(x, 32.0, 12.0, 12.0, colour)).add(label(x + 16.0, 42.0, name, "start"));
        x += 34.0 + 6.6 * name.len() as f64;
    }
    page
}

fn band(page: Document, scale: Scale, top: f64, name: &str, share: f64) -> Document {
    page.add(rectangle(LEFT, top, scale.x(scale.end) - LEFT, BAND, IDLE))
        .add(label(LEFT - 8.0, top + BAND / 2.0, name, "end"))
        .add(label(LEFT - 8.0, top + BAND / 2.0 + 15.0, &format!("{:.0} %", share * 100.0), "end"))
}

fn sent(page: Document, scale: Scale, top: f64, lane: &Lane) -> Document {
    let points = points(lane, |sample| sample.sent);
    page.add(area(scale, top, &points, &vec![0.0; points.len()], ORIGIN))
}

/// Kept bytes as areas, passed bytes as a line over them, work in the strip, and where phases begin.
fn arrived(page: Document, scale: Scale, top: f64, lane: &Lane) -> Document {
    let origin = points(lane, |sample| sample.origin);
    let both = points(lane, |sample| sample.origin + sample.peers);
    let below: Vec<f64> = origin.iter().map(|(_, share)| *share).collect();
    let mut page = page
        .add(area(scale, top, &origin, &vec![0.0; origin.len()], ORIGIN))
        .add(area(scale, top, &both, &below, PEERS))
        .add(curve(scale, top, &points(lane, |sample| sample.received)));
    let mut before = 0.0;
    for sample in &lane.samples {
        let (x, width) = (scale.x(before), scale.x(sample.at) - scale.x(before));
        let mut y = top + BAND + STRIP;
        for (cores, colour) in [(sample.verifying, VERIFY), (sample.storing, STORE)] {
            let high = (cores * STRIP).min(y - top - BAND);
            y -= high;
            page = page.add(rectangle(x, y, width, high, colour));
        }
        before = sample.at;
    }
    let phases = beginnings(&lane.samples);
    for (n, (at, phase)) in phases.iter().enumerate() {
        let x = scale.x(*at);
        let line = Line::new().set("x1", x).set("x2", x).set("y1", top).set("y2", top + BAND);
        page = page.add(line.set("stroke", LINK).set("stroke-width", 0.5));
        // A phase too short for its name goes without.
        let room = phases.get(n + 1).map_or(WIDTH, |(next, _)| scale.x(*next)) - x;
        if room > NAME_ROOM {
            page = page.add(label(x + 2.0, top + 10.0, phase_name(*phase), "start").set("font-size", 9));
        }
    }
    page
}

/// When each phase was first seen.
fn beginnings(samples: &[Sample]) -> Vec<(f64, Phase)> {
    let mut seen: Vec<(f64, Phase)> = Vec::new();
    for sample in samples {
        if let Some(phase) = sample.phase
            && seen.last().is_none_or(|(_, last)| *last != phase)
        {
            seen.push((sample.at, phase));
        }
    }
    seen
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolving => "resolving",
        Phase::Preparing => "preparing",
        Phase::Fetching => "fetching",
        Phase::Publishing => "publishing",
        Phase::Complete => "complete",
        Phase::Failed => "failed",
        Phase::Cancelled => "cancelled",
    }
}

/// Ends of samples with the share of the link.
fn points(lane: &Lane, rate: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    lane.samples.iter().map(|sample| (sample.at, rate(sample) / lane.link_bytes_per_second)).collect()
}

fn height_of(top: f64, share: f64) -> f64 {
    top + BAND - BAND * share.clamp(0.0, 1.1)
}

/// Steps from `below` up to `points`, both as shares of the band.
fn area(scale: Scale, top: f64, points: &[(f64, f64)], below: &[f64], colour: &str) -> Path {
    let mut data = Data::new().move_to((scale.x(0.0), top + BAND));
    for (at, share, from) in steps(points) {
        let y = height_of(top, share);
        data = data.line_to((scale.x(from), y)).line_to((scale.x(at), y));
    }
    let floor: Vec<(f64, f64)> = points.iter().zip(below).map(|((at, _), share)| (*at, *share)).collect();
    for (at, share, from) in steps(&floor).into_iter().rev() {
        let y = height_of(top, share);
        data = data.line_to((scale.x(at), y)).line_to((scale.x(from), y));
    }
    Path::new().set("d", data.close()).set("fill", colour)
}

fn curve(scale: Scale, top: f64, points: &[(f64, f64)]) -> Path {
    let mut data = Data::new().move_to((scale.x(0.0), top + BAND));
    for (at, share, from) in steps(points) {
        let y = height_of(top, share);
        data = data.line_to((scale.x(from), y)).line_to((scale.x(at), y));
    }
    Path::new().set("d", data).set("fill", "none").set("stroke", LINK).set("stroke-width", 0.8)
}

/// End, value and beginning of each step.
fn steps(points: &[(f64, f64)]) -> Vec<(f64, f64, f64)> {
    let mut from = 0.0;
    points
        .iter()
        .map(|(at, share)| {
            let step = (*at, *share, from);
            from = *at;
            step
        })
        .collect()
}

fn axis(mut page: Document, scale: Scale, y: f64) -> Document {
    let step = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0]
        .into_iter()
        .find(|step| scale.end / step <= 16.0)
        .unwrap_or(7200.0);
    let mut at = 0.0;
    while at <= scale.end {
        page = page.add(label(scale.x(at), y, &format!("{at} s"), "middle"));
        at += step;
    }
    page
}

fn rectangle(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", width.max(0.0))
        .set("height", height.max(0.0))
        .set("fill", colour)
}

fn label(x: f64, y: f64, text: &str, anchor: &str) -> Text {
    Text::new(text).set("x", x).set("y", y).set("text-anchor", anchor).set("fill", TEXT)
}
