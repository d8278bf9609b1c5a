//! What the crate promises to embedders: `tests/public-api.txt` lists every public item with its signature, so that a change of
//! the API shows in a commit. `UPDATE=1 cargo test --test public_api` rewrites it.
//!
//! Read from the sources: modules that are `pub` and not hidden, and in them what is `pub`.

use quote::ToTokens;
use std::fs;
use std::path::{Path, PathBuf};
use syn::{Attribute, Fields, ImplItem, Item, Visibility};

fn is_public(visibility: &Visibility, attributes: &[Attribute]) -> bool {
    let hides = |attribute: &Attribute| attribute.to_token_stream().to_string().contains("hidden");
    matches!(visibility, Visibility::Public(_)) && !attributes.iter().any(hides)
}

fn signature(tokens: impl ToTokens) -> String {
    tokens.to_token_stream().to_string()
}

fn fields(fields: &Fields) -> String {
    let public = fields.iter().filter(|field| matches!(field.vis, Visibility::Public(_)));
    let one = |field: &syn::Field| {
        let name = field.ident.as_ref().map_or(String::new(), |name| format!("{name}: "));
        name + &signature(&field.ty)
    };
    public.map(one).collect::<Vec<_>>().join(", ")
}

fn variants(item: &syn::ItemEnum) -> String {
    let grows = item.attrs.iter().any(|attribute| attribute.path().is_ident("non_exhaustive"));
    let names =
        item.variants.iter().map(|variant| format!("{}{}", variant.ident, signature(&variant.fields)));
    names.chain(grows.then(|| "..".to_owned())).collect::<Vec<_>>().join(", ")
}

/// The public items of one file, below this path.
fn list(path: &str, file: &Path, found: &mut Vec<String>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for item in syn::parse_file(&text).unwrap().items {
        match item {
            Item::Mod(item) if item.content.is_none() && is_public(&item.vis, &item.attrs) => {
                let stem = file.file_stem().unwrap();
                let folder =
                    if stem == "lib" { file.parent().unwrap().to_owned() } else { file.with_extension("") };
                let below: PathBuf = folder.join(format!("{}.rs", item.ident));
                list(&format!("{path}::{}", item.ident), &below, found);
            }
            Item::Fn(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: {}", signature(&item.sig)));
            }
            Item::Struct(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: struct {} {{ {} }}", item.ident, fields(&item.fields)));
            }
            Item::Enum(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: enum {} {{ {} }}", item.ident, variants(&item)));
            }
            Item::Trait(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: trait {}", item.ident))
            }
            Item::Const(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: const {}: {}", item.ident, signature(&item.ty)));
            }
            Item::Type(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: type {}", item.ident))
            }
            Item::Use(item) if is_public(&item.vis, &item.attrs) => {
                found.push(format!("{path}: use {}", signature(&item.tree)));
            }
            Item::Impl(item) => methods(path, &item, found),
            _ => {}
        }
    }
}

fn methods(path: &str, item: &syn::ItemImpl, found: &mut Vec<String>) {
    let of = signature(&item.self_ty);
    if let Some((_, name, _)) = &item.trait_ {
        found.push(format!("{path}: impl {} for {of}", signature(name)));
        return;
    }
    for method in &item.items {
        if let ImplItem::Fn(method) = method
            && is_public(&method.vis, &method.attrs)
        {
            found.push(format!("{path}: {of}: {}", signature(&method.sig)));
        }
    }
}

#[test]
fn the_public_api_is_the_recorded_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    list("nwfilter", &root.join("src/lib.rs"), &mut found);
    found.sort();
    let text = found.join("\n") + "\n";
    let record = root.join("tests/public-api.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&record, &text).unwrap();
    }
    let recorded = fs::read_to_string(&record).unwrap();
    let (old, new): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), text.lines().collect());
    let gone: Vec<_> = old.iter().filter(|line| !new.contains(line)).collect();
    let come: Vec<_> = new.iter().filter(|line| !old.contains(line)).collect();
    assert!(
        gone.is_empty() && come.is_empty(),
        "the API changed: say so in CHANGELOG.md, then UPDATE=1 cargo test --test public_api\ngone: {gone:#?}\nnew: {come:#?}"
    );
}
