//! The README, tried as a new user would: its template file is served, its API call is sent, its targets exist.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::harness::{Server, get, request};
use crate::support::skip::skip;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Returns the content of every code block of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    text.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The app of the README's template: answers each request with its instance's id.
const SERVER_JS: &str = "require('http').createServer((request, response) => response.end(process.env.INSTANCE_ID))\
    .listen(process.env.PORT, process.env.HOST);";

/// Splits a command line at spaces outside of single quotes, as a shell does.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[tokio::test]
async fn the_template_file_and_the_api_call_of_the_readme_work_as_printed() {
    if Command::new("node").arg("--version").output().is_err() {
        return skip("node is missing");
    }
    let readme = read("README.md");
    let [templates] = &blocks(&readme, "toml")[..] else { panic!("the README has one template file") };
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(folder.join("shop")).unwrap();
    std::fs::write(folder.join("shop/server.js"), SERVER_JS).unwrap();
    let file: PathBuf = folder.join("try-it-now.toml");
    std::fs::write(&file, templates).unwrap();
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    let server = Server::start_in(folder, &[], &arguments).await.full().await;

    let all_commands = blocks(&readme, "sh").concat();
    let call = all_commands.lines().find(|line| line.starts_with("curl ")).expect("the README calls the API");
    let words = shell_words(call);
    let value_after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).map(String::as_str)
    };
    let url = words.iter().find(|word| word.starts_with("http://")).unwrap();
    let path = url.strip_prefix("http://localhost:8080").expect("the README calls the default port");
    let header = value_after("-H").and_then(|header| header.split_once(": "));
    let headers: Vec<_> = header.into_iter().collect();
    let body = value_after("-d").unwrap_or_default();
    let answer = request(server.port, value_after("-X").unwrap(), "localhost", path, &headers, body).await;
    assert_eq!(answer.status, 200, "{call}: {}", answer.text());
    let acquired = answer.json();
    for field in ["id", "url", "admin_url", "expires_at", "ttl_seconds"] {
        assert!(
            readme.contains(&format!("\"{field}\"")) && acquired.get(field).is_some(),
            "{field}: {acquired}"
        );
    }
    let id = acquired["id"].as_str().unwrap();
    let page = get(server.port, &format!("{id}.localhost"), "/").await;
    assert_eq!((page.status, page.text().as_str()), (200, id));
}

/// `make` prints what it would run, which fails for a target that does not exist.
#[test]
fn every_make_target_that_a_document_names_exists() {
    let documents = ["README.md", "CLAUDE.md", "docs/containers.md", "docs/cluster.md", "perf/README.md"];
    let makefile = read("Makefile");
    let is_target = |name: &str| makefile.lines().any(|line| line.starts_with(&format!("{name}:")));
    for document in documents {
        let text = read(document);
        let commands = blocks(&text, "sh").concat();
        let inline = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("make "));
        let lines = commands.lines().filter(|line| line.starts_with("make ")).chain(inline);
        for line in lines {
            let targets = line
                .split_whitespace()
                .skip(1)
                .take_while(|word| !word.starts_with(['#', '(']))
                .filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
            for target in targets {
                assert!(is_target(target), "{document}: there is no target `{target}` (`{line}`)");
            }
        }
    }
}
