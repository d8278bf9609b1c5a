//! Every link within the repository leads to a file and a heading that is there, and every page can be found.

use super::markdown::Page;
use super::{book, documents, root};
use std::path::Path;

#[test]
fn links_lead_to_pages_and_headings() {
    let pages: Vec<Page> = book().into_iter().chain(documents()).collect();
    let broken: Vec<String> = pages.iter().flat_map(broken_links).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_summary_lists_every_page() {
    let summary = Page::read(root().join("docs/src/SUMMARY.md"));
    let listed = summary.targets();
    for page in book().iter().filter(|page| !page.path.ends_with("SUMMARY.md")) {
        let name = page.path.strip_prefix(root().join("docs/src")).unwrap().to_str().unwrap().to_owned();
        assert!(listed.contains(&name), "docs/src/SUMMARY.md does not list {name}");
    }
}

#[test]
fn a_broken_link_is_found() {
    let text =
        "# Here it is\n[a](#here-it-is) [b](#gone) [c](gone.md) `[d](code.md)` [e](https://example.org/)\n";
    let page = Page { path: root().join("docs/src/none.md"), text: text.to_owned() };
    let broken = broken_links(&page);
    assert_eq!(broken.len(), 2, "{broken:?}");
    assert!(broken[0].contains("#gone") && broken[1].contains("gone.md"), "{broken:?}");
}

fn broken_links(page: &Page) -> Vec<String> {
    let targets = page.targets().into_iter().chain(includes(page));
    let broken = targets.filter_map(|target| Some((why_broken(page, &target)?, target)));
    broken.map(|(why, target)| format!("{}: {target}: {why}", page.name())).collect()
}

fn why_broken(page: &Page, target: &str) -> Option<&'static str> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.path.clone(),
        _ => page.path.parent().unwrap_or(Path::new("/")).join(file),
    };
    if file.is_empty() && !anchor.is_empty() {
        return (!page.anchors().iter().any(|name| name == anchor)).then_some("no such heading");
    }
    if !path.exists() {
        return Some("no such file");
    }
    let there = anchor.is_empty() || Page::read(path).anchors().iter().any(|name| name == anchor);
    (!there).then_some("no such heading")
}

/// The files that mdBook puts into a page, or lines of them.
fn includes(page: &Page) -> impl Iterator<Item = String> {
    let found = page.text.split("{{#include ").skip(1).filter_map(|rest| rest.split_once("}}"));
    found.map(|(file, _)| file.trim().split(':').next().unwrap_or_default().to_owned())
}
