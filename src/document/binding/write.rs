//! [`Binding`] to XML, byte for byte as libvirt prints it.

use super::Binding;
use crate::document::filter::write::{add_parameters, file_comment};
use crate::document::xml::print::{add, element, print, print_below, text};
use xmltree::Element;

/// The document that binding-dumpxml shows.
pub fn write(binding: &Binding) -> String {
    print(&to_element(binding), 0)
}

/// The status document of a binding.
pub fn write_status(binding: &Binding) -> String {
    let mut status = Element::new("filterbindingstatus");
    add(&mut status, to_element(binding));
    print_below(&file_comment("nwfilter-binding-create DEV"), &print(&status, 0))
}

fn to_element(binding: &Binding) -> Element {
    let mut root = Element::new("filterbinding");
    let mut owner = Element::new("owner");
    add(&mut owner, text("name", &binding.owner_name));
    add(&mut owner, text("uuid", &binding.owner_uuid.to_string()));
    add(&mut root, owner);
    add(&mut root, element("portdev", &[("name", &binding.portdev)]));
    if let Some(linkdev) = &binding.linkdev {
        add(&mut root, element("linkdev", &[("name", linkdev)]));
    }
    add(&mut root, element("mac", &[("address", &binding.mac.to_string())]));
    let mut filterref = element("filterref", &[("filter", &binding.filter)]);
    add_parameters(&mut filterref, &binding.params);
    add(&mut root, filterref);
    root
}
