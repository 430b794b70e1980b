//! The verb: runs the options, prints the report.

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use crate::progress::{Terminal, say};
use crate::{Options, Report, quantize};

/// Runs the options with progress on stderr and the report on stdout, until `interrupted` is
/// set. Returns the process's exit code.
pub fn run(options: &Options, interrupted: &AtomicBool) -> u8 {
    let progress = Terminal::new(interrupted);
    match quantize(options, &progress) {
        Ok(report) => match print(&report, options.json) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                say(format_args!("error: cannot print the report: {e}"));
                1
            }
            _ => 0,
        },
        Err(error) => {
            say(format_args!("error: {error}"));
            error.exit_code()
        }
    }
}

fn print(report: &Report, as_json: bool) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    if as_json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else if report.dry_run {
        table(report, &mut out)?;
    } else {
        writeln!(
            out,
            "{}: {} tensors, {}, {:.2} GB in {:.1} s",
            report.output.display(),
            report.tensors.len(),
            report.file_type,
            report.bytes as f64 / 1e9,
            report.seconds
        )?;
    }
    out.flush()
}

/// The plan as a table: tensor, shape, from, to, bytes.
fn table(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![["tensor", "shape", "from", "to", "bytes"].map(String::from)];
    rows.extend(report.tensors.iter().map(|t| {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        [
            t.name.clone(),
            format!("[{}]", shape.join(", ")),
            t.from.clone(),
            t.to.to_string(),
            t.bytes.to_string(),
        ]
    }));
    let widths: [usize; 5] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0));
    let notes = std::iter::once(None).chain(report.tensors.iter().map(|t| t.note.as_deref()));
    for ([tensor, shape, from, to, bytes], note) in rows.iter().zip(notes) {
        let [a, b, c, d, e] = widths;
        write!(
            out,
            "{tensor:a$}  {shape:b$}  {from:c$}  {to:d$}  {bytes:>e$}"
        )?;
        match note {
            Some(note) => writeln!(out, "  ({note})")?,
            None => writeln!(out)?,
        }
    }
    writeln!(
        out,
        "{} tensors, {} bytes with metadata, as {}",
        report.tensors.len(),
        report.bytes,
        report.output.display()
    )
}
