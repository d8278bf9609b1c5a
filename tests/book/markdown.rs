//! A page, as far as its tests have to understand it: fenced blocks, links and headings.

use super::root;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

/// A document in Markdown.
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

/// A fenced block of a page.
pub struct Block<'a> {
    /// What stands behind the opening fence.
    pub info: &'a str,
    /// The lines between the fences.
    pub body: &'a str,
    /// Where they are in the page.
    pub range: Range<usize>,
}

impl Page {
    pub fn read(path: PathBuf) -> Page {
        let text = fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        Page { path, text }
    }

    /// Its path within the repository.
    pub fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }

    pub fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<(&str, usize)> = None;
        let mut at = 0;
        for line in self.text.split_inclusive('\n') {
            let fence = line.trim().strip_prefix("```");
            match (open, fence) {
                (None, Some(info)) => open = Some((info, at + line.len())),
                (Some((info, from)), Some("")) => {
                    blocks.push(Block { info, body: &self.text[from..at], range: from..at });
                    open = None;
                }
                _ => {}
            }
            at += line.len();
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.name());
        blocks
    }

    /// Its text without fenced blocks, inline code and what is indented as code.
    pub fn prose(&self) -> String {
        let mut fenced = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            let fence = line.trim().starts_with("```");
            fenced ^= fence;
            if !fence && !fenced && !line.starts_with("    ") {
                prose.push_str(&without_code(line));
            }
            prose.push('\n');
        }
        prose
    }

    /// Where its links lead: what stands in `[text](target)` and `[label]: target`.
    pub fn targets(&self) -> Vec<String> {
        let prose = self.prose();
        let inline =
            prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let defined =
            prose.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).map(|(_, to)| to);
        inline.chain(defined).map(|target| target.trim().to_owned()).collect()
    }

    /// The anchors of its headings, as mdBook and GitHub make them.
    pub fn anchors(&self) -> Vec<String> {
        let mut fenced = false;
        let mut anchors = Vec::new();
        for line in self.text.lines() {
            fenced ^= line.trim().starts_with("```");
            let heading = line.trim_start_matches('#');
            if !fenced && heading.len() < line.len() && heading.starts_with(' ') {
                anchors.push(anchor(heading.trim()));
            }
        }
        anchors
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}
