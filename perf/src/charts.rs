//! Charts as SVG, each complete in itself. Pure.

use std::fmt::Write as _;

use crate::findings::{Bar, Line, Stack};

/// A chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chart {
    /// Its title.
    pub(crate) title: String,
    /// The picture.
    pub(crate) svg: String,
}

impl Chart {
    /// Returns a name for its file, without an ending.
    pub(crate) fn file_name(&self) -> String {
        let words = self.title.to_lowercase();
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-")
    }
}

/// The width of every chart.
const WIDTH: f64 = 720.0;
/// The part of it for labels at the left.
const LEFT: f64 = 190.0;
/// The part of it for values at the right.
const RIGHT: f64 = 110.0;
/// The part of the height for the title.
const TOP: f64 = 44.0;
const BAR_HEIGHT: f64 = 22.0;
const BAR_DISTANCE: f64 = 32.0;
/// The height of the area of lines.
const LINES_HEIGHT: f64 = 260.0;

/// The colour of the server, and those of others.
const OWN_COLOUR: &str = "#1769aa";
const COLOURS: [&str; 6] = ["#c75b12", "#6a7f10", "#7d4698", "#9a8b6f", "#b0215f", "#3f7d7b"];

/// Returns one chart for each title of the bars, in their order.
pub(crate) fn bars(bars: &[Bar]) -> Vec<Chart> {
    grouped(
        bars,
        |bar| &bar.chart,
        |title, bars| {
            let most =
                bars.iter().map(|bar| bar.value.high.max(bar.value.value)).fold(f64::MIN_POSITIVE, f64::max);
            let scale = (WIDTH - LEFT - RIGHT) / most;
            let mut body = String::new();
            for (number, bar) in bars.iter().enumerate() {
                let y = TOP + BAR_DISTANCE * number as f64;
                let middle = y + BAR_HEIGHT / 2.0;
                label(&mut body, LEFT - 8.0, middle, "end", &bar.label);
                rect(&mut body, LEFT, y, bar.value.value * scale, colour(&bar.label, number));
                // The interval.
                let (low, high) = (LEFT + bar.value.low * scale, LEFT + bar.value.high * scale);
                line(&mut body, (low, middle), (high, middle), "#222", 1.5);
                let text = format!("{} {}", number_text(bar.value.value), short_unit(bar.unit));
                label(&mut body, high.max(LEFT + bar.value.value * scale) + 6.0, middle, "start", &text);
            }
            let unit = bars.first().map_or("", |bar| bar.unit);
            svg(title, unit, TOP + BAR_DISTANCE * bars.len() as f64 + 6.0, &body)
        },
    )
}

/// Returns one chart for each title of the bars of steps.
pub(crate) fn stacks(stacks: &[Stack]) -> Vec<Chart> {
    grouped(
        stacks,
        |stack| &stack.chart,
        |title, stacks| {
            let sum = |stack: &Stack| stack.steps.iter().map(|(_, took)| took.max(0.0)).sum::<f64>();
            let most = stacks.iter().map(sum).fold(f64::MIN_POSITIVE, f64::max);
            let scale = (WIDTH - LEFT - RIGHT) / most;
            let mut names: Vec<&str> = Vec::new();
            let mut body = String::new();
            for (number, stack) in stacks.iter().enumerate() {
                let y = TOP + BAR_DISTANCE * number as f64;
                label(&mut body, LEFT - 8.0, y + BAR_HEIGHT / 2.0, "end", &stack.label);
                let mut x = LEFT;
                for (name, took) in &stack.steps {
                    let known = names.iter().position(|known| known == name);
                    let step = known.unwrap_or_else(|| {
                        names.push(name);
                        names.len() - 1
                    });
                    rect(&mut body, x, y, took.max(0.0) * scale, step_colour(step));
                    x += took.max(0.0) * scale;
                }
                label(
                    &mut body,
                    x + 6.0,
                    y + BAR_HEIGHT / 2.0,
                    "start",
                    &format!("{} ms", number_text(sum(stack))),
                );
            }
            let mut y = TOP + BAR_DISTANCE * stacks.len() as f64 + 6.0;
            for (number, name) in names.iter().enumerate() {
                let x = 20.0 + (WIDTH - 40.0) / 4.0 * (number % 4) as f64;
                if number > 0 && number % 4 == 0 {
                    y += 20.0;
                }
                let _ = write!(
                    body,
                    "<rect x='{x:.1}' y='{y:.1}' width='12' height='12' fill='{}'/>",
                    step_colour(number)
                );
                label(&mut body, x + 18.0, y + 6.0, "start", name);
            }
            svg(title, "ms", y + 24.0, &body)
        },
    )
}

/// Returns one chart for each title of the lines. Both axes are logarithmic.
pub(crate) fn lines(lines: &[Line]) -> Vec<Chart> {
    grouped(
        lines,
        |line| &line.chart,
        |title, lines| {
            let times = || lines.iter().flat_map(|line| line.points.iter().map(|(_, time)| time.max(0.1)));
            let least = 10_f64.powf(times().fold(f64::MAX, f64::min).min(1e6).log10().floor());
            let most = 10_f64.powf(times().fold(1.0, f64::max).log10().ceil()).max(least * 10.0);
            let (left, right, bottom) = (80.0, WIDTH - 150.0, TOP + LINES_HEIGHT);
            let last =
                lines.iter().flat_map(|line| line.points.iter().map(|(share, _)| *share)).fold(0.9, f64::max);
            // The distance from 100 %, on a logarithmic axis.
            let nines = |share: f64| -(1.0 - share).log10();
            let x = |share: f64| left + (right - left) * nines(share) / nines(last);
            let y = |time: f64| {
                bottom - LINES_HEIGHT * (time.max(least) / least).log10() / (most / least).log10()
            };
            let mut body = String::new();
            let mut power = least;
            while power <= most * 1.001 {
                line(&mut body, (left, y(power)), (right, y(power)), "#ddd", 1.0);
                label(&mut body, left - 8.0, y(power), "end", &time_text(power));
                power *= 10.0;
            }
            for (share, text) in
                [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
            {
                if share <= last {
                    line(&mut body, (x(share), TOP), (x(share), bottom), "#ddd", 1.0);
                    label(&mut body, x(share), bottom + 14.0, "middle", text);
                }
            }
            for (number, of) in lines.iter().enumerate() {
                let colour = colour(&of.label, number);
                let points: Vec<String> = of
                    .points
                    .iter()
                    .map(|(share, time)| format!("{:.1},{:.1}", x(*share), y(*time)))
                    .collect();
                let _ = write!(
                    body,
                    "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2.5'/>",
                    points.join(" ")
                );
                let at = TOP + 8.0 + 20.0 * number as f64;
                rect(&mut body, right + 14.0, at - 11.0, 14.0, colour);
                label(&mut body, right + 34.0, at, "start", &of.label);
            }
            svg(title, "latency by percentile", bottom + 34.0, &body)
        },
    )
}

/// Calls `draw` with the members of each title, in the order in which the titles appear.
fn grouped<T: Clone>(
    all: &[T],
    title: impl Fn(&T) -> &str,
    draw: impl Fn(&str, &[T]) -> String,
) -> Vec<Chart> {
    let mut titles: Vec<&str> = Vec::new();
    for one in all {
        if !titles.contains(&title(one)) {
            titles.push(title(one));
        }
    }
    let chart = |wanted: &&str| {
        let members: Vec<T> = all.iter().filter(|one| title(one) == *wanted).cloned().collect();
        Chart { title: (*wanted).to_owned(), svg: draw(wanted, &members) }
    };
    titles.iter().map(chart).collect()
}

fn svg(title: &str, unit: &str, height: f64, body: &str) -> String {
    let (title, unit) = (escaped(title), escaped(unit));
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' width='{WIDTH}' \
         height='{height:.0}' font-family='system-ui, sans-serif' font-size='13' fill='#222'>\
         <title>{title}</title><rect width='100%' height='100%' fill='#fff'/>\
         <text x='16' y='24' font-size='15' font-weight='600'>{title}</text>\
         <text x='{:.0}' y='24' text-anchor='end' fill='#666'>{unit}</text>{body}</svg>\n",
        WIDTH - 16.0
    )
}

fn rect(body: &mut String, x: f64, y: f64, width: f64, colour: &str) {
    let _ = write!(
        body,
        "<rect x='{x:.1}' y='{y:.1}' width='{width:.1}' height='{BAR_HEIGHT}' fill='{colour}'/>"
    );
}

fn line(body: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let _ = write!(
        body,
        "<line x1='{:.1}' y1='{:.1}' x2='{:.1}' y2='{:.1}' stroke='{colour}' stroke-width='{width}'/>",
        from.0, from.1, to.0, to.1
    );
}

/// Writes a text whose middle is at this height.
fn label(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ =
        write!(body, "<text x='{x:.1}' y='{:.1}' text-anchor='{anchor}'>{}</text>", y + 4.5, escaped(text));
}

/// Returns the colour of what is measured: the server has one that no other has.
fn colour(label: &str, number: usize) -> &'static str {
    match label.strip_prefix("Try It Now") {
        Some(", pingora") => "#7fb2d9",
        Some(_) => OWN_COLOUR,
        None => COLOURS[number % COLOURS.len()],
    }
}

fn step_colour(number: usize) -> &'static str {
    if number == 0 { OWN_COLOUR } else { COLOURS[(number - 1) % COLOURS.len()] }
}

fn number_text(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn short_unit(unit: &str) -> &str {
    match unit {
        "requests/s" => "/s",
        "us per request" => "us",
        other => other,
    }
}

/// Returns a time in microseconds as a text.
fn time_text(micros: f64) -> String {
    match micros {
        m if m >= 1e6 => format!("{:.0} s", m / 1e6),
        m if m >= 1e3 => format!("{:.0} ms", m / 1e3),
        m => format!("{m:.0} us"),
    }
}

/// Returns a text as XML and HTML contain it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::median;

    #[test]
    fn bars_of_one_title_share_a_chart_and_texts_are_escaped() {
        let bar = |chart: &str, label: &str, value| Bar {
            chart: chart.to_owned(),
            unit: "requests/s",
            label: label.to_owned(),
            value: median(&[value]),
        };
        let charts = bars(&[bar("A, b", "Try It Now", 50.0), bar("C", "x", 1.0), bar("A, b", "<n>", 100.0)]);
        let titles: Vec<_> = charts.iter().map(|chart| (chart.title.as_str(), chart.file_name())).collect();
        assert_eq!(titles, [("A, b", "a-b".to_owned()), ("C", "c".to_owned())]);
        // The longest bar has the whole width, and the other one half of it.
        assert!(charts[0].svg.contains("width='420.0'") && charts[0].svg.contains("width='210.0'"));
        assert!(charts[0].svg.contains("&lt;n&gt;") && !charts[0].svg.contains("<n>"));
    }

    #[test]
    fn times_are_on_a_logarithmic_axis() {
        let points = vec![(0.0, 10.0), (0.9, 100.0), (0.99, 1000.0)];
        let chart = lines(&[Line { chart: "T".to_owned(), label: "x".to_owned(), points }]).remove(0);
        // Equal steps in both directions: ten times the time, a tenth of the other requests.
        assert!(chart.svg.contains("points='80.0,304.0 325.0,174.0 570.0,44.0'"), "{}", chart.svg);
    }

    #[test]
    fn steps_follow_each_other() {
        let steps = vec![("a".to_owned(), 1.0), ("b".to_owned(), 3.0)];
        let chart = stacks(&[Stack { chart: "T".to_owned(), label: "x".to_owned(), steps }]).remove(0);
        assert!(chart.svg.contains("x='190.0' y='44.0' width='105.0'"), "{}", chart.svg);
        assert!(chart.svg.contains("x='295.0' y='44.0' width='315.0'"), "{}", chart.svg);
    }
}
