//! The results as a table for people, for spreadsheets and for programs.

use katari::bench::median;
use katari::engine::{EngineOptions, Isa, ModelFile, Placement};
use katari_gguf::Format;
use serde::Serialize;

use super::Timed;
use crate::cli::failure::Failure;
use crate::cli::output;

/// What holds of all rows.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    #[serde(rename = "type")]
    file_type: String,
    /// What runs the layers, with how many each where they are split: `cpu: 4, cuda:0: 24`.
    device: String,
    isa: &'static str,
    threads: usize,
    /// Keys and values: `f16`, or `q8_0,f16` where they differ.
    kv: String,
    file_bytes: usize,
    kv_cache_bytes: u64,
    /// Floating-point operations a second in registers alone.
    #[serde(rename = "registers_gflop_s", serialize_with = "giga")]
    pub registers: f64,
}

/// One test's results. Rates are per second, `giga` meaning 10^9.
#[derive(Debug, Serialize)]
pub struct Row {
    test: String,
    /// The median.
    tokens_per_second: f64,
    /// Half the distance from the slowest repetition to the fastest.
    spread: f64,
    /// Seconds of the middle repetition.
    seconds: f64,
    repetitions: usize,
    bandwidth_gb_s: f64,
    /// The median of the repetitions' shares, each of the stream rate around it.
    bandwidth_share: f64,
    /// The median of those rates.
    stream_gb_s: f64,
    arithmetic_gmac_s: f64,
    arithmetic_share: f64,
    kernel_gmac_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_anonymous_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_file_bytes: Option<u64>,
}

/// A row with what holds of all, which is what programs get.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    row: &'a Row,
    #[serde(flatten)]
    report: &'a Report,
}

fn giga<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value / 1e9)
}

impl Row {
    /// The results of `timed`; `rate` is that of the kernels of a format, in
    /// multiply-accumulates a second.
    pub fn new(timed: &Timed, rate: impl Fn(Format) -> f64) -> Row {
        let (measured, read) = (&timed.measured, &timed.measured.read);
        let seconds = measured.median();
        let (slowest, fastest) = measured.range();
        let bandwidth = read.bytes() / seconds;
        let (limits, shares) = shares(read.bytes(), &measured.seconds, &timed.streams);
        let arithmetic = read.all_multiplies() / seconds;
        let kernel = read.multiply_limit(rate);
        Row {
            test: timed.test.clone(),
            tokens_per_second: measured.tokens_per_second(),
            spread: (fastest - slowest) / 2.0,
            seconds,
            repetitions: measured.seconds.len(),
            bandwidth_gb_s: bandwidth / 1e9,
            bandwidth_share: median(&shares),
            stream_gb_s: median(&limits) / 1e9,
            arithmetic_gmac_s: arithmetic / 1e9,
            arithmetic_share: arithmetic / kernel,
            kernel_gmac_s: kernel / 1e9,
            peak_rss_bytes: timed.memory.map(|m| m.peak),
            rss_anonymous_bytes: timed.memory.map(|m| m.anonymous),
            rss_file_bytes: timed.memory.map(|m| m.file),
        }
    }
}

/// What each repetition could have read a second at the rate before and after it, of which
/// `streams` has one more than there are repetitions, and the share of that which it did.
fn shares(bytes: f64, seconds: &[f64], streams: &[f64]) -> (Vec<f64>, Vec<f64>) {
    (seconds.iter().zip(streams.windows(2)))
        .map(|(seconds, around)| {
            let limit = median(around);
            (limit, bytes / seconds / limit)
        })
        .unzip()
}

impl Report {
    pub fn new(
        model: String,
        file_type: String,
        file: &ModelFile,
        options: &EngineOptions,
        placement: &[Placement],
    ) -> Report {
        let named = placement.iter().map(|part| match placement {
            [whole] => whole.device.clone(),
            _ => format!("{}: {}", part.device, part.layers.len()),
        });
        let (keys, values) = options.kv;
        Report {
            model,
            file_type,
            device: named.collect::<Vec<_>>().join(", "),
            isa: options.isa.unwrap_or_else(Isa::best).name(),
            threads: options.threads(),
            kv: match keys == values {
                true => keys.to_string(),
                false => format!("{keys},{values}"),
            },
            file_bytes: file.bytes().len(),
            kv_cache_bytes: file.memory(options).map_or(0, |memory| memory.kv),
            registers: f64::NAN,
        }
    }

    /// Prints `rows` as Markdown, JSON or CSV.
    pub fn print(&self, rows: &[Row], json: bool, csv: bool) -> Result<(), Failure> {
        let whole: Vec<Whole<'_>> = (rows.iter())
            .map(|row| Whole { row, report: self })
            .collect();
        if json {
            return output::json(&whole);
        }
        if csv {
            return output::stream(&comma_separated(&serde_json::to_value(&whole)?));
        }
        output::stream(&self.markdown(rows))
    }

    fn markdown(&self, rows: &[Row]) -> String {
        let mut text = format!(
            "{}: {}, {}; {}, {} threads, {}, KV cache {}\n\n\
             | test | tokens/s | bandwidth, GB/s | of memory's | arithmetic, GMAC/s | of the kernel's | seconds | peak memory |\n\
             |---|---|---|---|---|---|---|---|\n",
            self.model,
            self.file_type,
            output::bytes(self.file_bytes as u64),
            self.device,
            self.threads,
            self.isa,
            self.kv,
        );
        for row in rows {
            let peak = row.peak_rss_bytes.map_or(String::new(), output::bytes);
            text += &format!(
                "| {} | {:.2} ± {:.2} | {:.1} | {} | {:.1} | {} | {:.3} | {peak} |\n",
                row.test,
                row.tokens_per_second,
                row.spread,
                row.bandwidth_gb_s,
                share(row.bandwidth_share, row.stream_gb_s),
                row.arithmetic_gmac_s,
                share(row.arithmetic_share, row.kernel_gmac_s),
                row.seconds,
            );
        }
        if !self.registers.is_nan() {
            text += &format!(
                "\nIn registers alone the threads reach {:.1} GFLOP/s.\n",
                self.registers / 1e9
            );
        }
        text
    }
}

/// `62 % of 60.6`; nothing where there is no limit.
fn share(share: f64, limit: f64) -> String {
    match limit.is_nan() {
        true => String::new(),
        false => format!("{:.0} % of {limit:.1}", share * 100.0),
    }
}

/// An array of flat objects as CSV (RFC 4180), the first object's keys as names.
fn comma_separated(rows: &serde_json::Value) -> String {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<String> = (rows.first())
        .and_then(serde_json::Value::as_object)
        .map(|row| row.keys().cloned().collect())
        .unwrap_or_default();
    let mut text = names.join(",");
    for row in rows {
        let fields = names.iter().map(|name| match row.get(name) {
            Some(serde_json::Value::String(text)) if text.contains([',', '"', '\n']) => {
                format!("\"{}\"", text.replace('"', "\"\""))
            }
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        });
        text.push('\n');
        text += &fields.collect::<Vec<_>>().join(",");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repetition_is_held_against_the_rates_around_it() {
        let (limits, shares) = shares(12.0, &[2.0, 1.0, 1.0], &[10.0, 14.0, 34.0, 6.0]);
        assert_eq!(limits, [12.0, 24.0, 20.0]);
        assert_eq!(shares, [0.5, 0.5, 0.6]);
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        let rows = serde_json::json!([{"a": 1.5, "kv": "q8_0,f16"}, {"a": 2, "kv": "say \"x\""}]);
        assert_eq!(
            comma_separated(&rows),
            "a,kv\n1.5,\"q8_0,f16\"\n2,\"say \"\"x\"\"\"\n"
        );
    }
}
