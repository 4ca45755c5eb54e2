//! The table of `docs/images.md`.

use std::path::{Path, PathBuf};

use super::APPS;
use super::app::App;

/// The columns.
const HEADER: &str = "| app | shape | cold | restore p50 | private memory | shared memory | verdict |";

/// What was measured of an app.
pub(super) struct Measured {
    pub(super) cold_millis: u64,
    /// `None` for an app whose instances are not restored.
    pub(super) restore_millis: Option<u64>,
    /// Of one instance before its first visitor.
    pub(super) private_bytes: u64,
    /// Of all instances of a checkpoint together, or why they share none.
    pub(super) shared_bytes: Result<u64, String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the file of an app's row, from which `make zoo` prints the table.
fn row_file(app: &App) -> PathBuf {
    let name: String = app
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    root().join("target/zoo").join(name).with_extension("md")
}

/// Writes the row of an app.
pub(super) fn write_row(app: &App, measured: &Measured) {
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let cells = [
        app.name.to_owned(),
        app.shape.to_owned(),
        format!("{:.1} s", measured.cold_millis as f64 / 1000.0),
        measured.restore_millis.map_or_else(String::new, |millis| format!("{millis} ms")),
        mebibytes(measured.private_bytes),
        measured.shared_bytes.as_ref().map_or_else(|why| format!("none: {why}"), |bytes| mebibytes(*bytes)),
        app.verdict.text().to_owned(),
    ];
    let file = row_file(app);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, format!("| {} |\n", cells.join(" | "))).unwrap();
}

#[test]
fn the_document_has_a_row_for_each_app_with_its_shape_and_verdict() {
    let text = std::fs::read_to_string(root().join("docs/images.md")).unwrap();
    let (_, table) = text.split_once(HEADER).expect("the table of the zoo");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let documented: Vec<_> =
        cells.map(|cells| (cells[0].to_owned(), cells[1].to_owned(), cells[6].to_owned())).collect();
    let mut apps: Vec<_> = APPS.iter().map(|app| (app, row_file(app))).collect();
    // In the order of the files, which is that of `make zoo`.
    apps.sort_by(|one, other| one.1.cmp(&other.1));
    let apps: Vec<_> = apps
        .iter()
        .map(|(app, _)| (app.name.to_owned(), app.shape.to_owned(), app.verdict.text().to_owned()))
        .collect();
    assert_eq!(documented, apps);
}

#[test]
fn every_image_of_the_zoo_is_built_by_make_zoo() {
    let text = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let lists =
        text.lines().filter(|line| line.starts_with("IMAGES := ") || line.starts_with("ZOO_IMAGES := "));
    let built: Vec<_> = lists.flat_map(|line| line.split_whitespace().skip(2)).collect();
    for app in APPS {
        assert!(built.contains(&app.image), "{} is not in the Makefile's lists {built:?}", app.image);
        assert!(
            root().join("deployments/images").join(app.image).join("image.sh").is_file(),
            "{}",
            app.image
        );
    }
}
