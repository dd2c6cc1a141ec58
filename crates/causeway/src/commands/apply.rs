//! `apply`, `delete` and `check`: documents in, what became of them out.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use causeway_api::sound::sound;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::cli::Apply;
use crate::client::Client;
use crate::documents;

/// Sends each file's documents to the node and prints a line for each object.
pub(crate) async fn apply(client: &Client, apply: Apply) -> Result<()> {
    let mut failed = 0;
    for (path, text) in read_all(&apply.file)? {
        let query = if apply.dry_run { "?dryRun=true" } else { "" };
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/yaml".parse()?);
        let name = path.display().to_string();
        if let Ok(value) = name.parse() {
            // So that problems name the file as the user knows it.
            headers.insert("causeway-source", value);
        }
        let answer = client
            .send(Method::POST, &format!("/v1/apply{query}"), headers, Bytes::from(text), Duration::ZERO)
            .await?;
        let is_problem = !answer.status.is_success();
        let problem = answer.problem();
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        for object in value["objects"].as_array().into_iter().flatten() {
            let said = |key: &str| object[key].as_str().unwrap_or_default();
            println!("{} {}/{} {}", said("kind"), said("namespace"), said("name"), said("outcome"));
            if let Some(why) = object["why"].as_str() {
                println!("  {why}");
            }
        }
        if is_problem {
            failed += 1;
            eprintln!("{problem}");
        }
    }
    if failed > 0 {
        bail!("not everything was applied");
    }
    Ok(())
}

/// Deletes one object.
pub(crate) async fn delete(client: &Client, kind: &str, namespace: &str, name: &str) -> Result<()> {
    client.json(Method::DELETE, &format!("/v1/config/{kind}/{namespace}/{name}"), None).await?;
    println!("{kind} {namespace}/{name} deleted");
    Ok(())
}

/// Says everything that is wrong with the documents, each with file, line and column.
pub(crate) fn check(paths: &[PathBuf]) -> Result<()> {
    let (mut good, mut bad) = (0, 0);
    for (path, text) in read_all(paths)? {
        let parsed = causeway_spec::parse(&path.display().to_string(), &text);
        let (documents, unsound) = sound(parsed.documents);
        good += documents.len();
        bad += unsound.len();
        bad += parsed.problems.iter().filter(|problem| !problem.is_warning()).count();
        parsed.problems.iter().for_each(|problem| println!("{problem}"));
        unsound.iter().for_each(|problem| println!("{problem}"));
    }
    if bad > 0 {
        bail!("problems: {bad}; documents that are fine: {good}");
    }
    println!("documents that are fine: {good}");
    Ok(())
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let mut texts = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            texts.push((PathBuf::from("stdin"), text));
            continue;
        }
        for file in documents::files(path)? {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            texts.push((file, text));
        }
    }
    Ok(texts)
}
