//! What a server needs behind it: filters and bindings in two maps.

use nwfilter::engine::api::{BindingId, FilterId, Reply, Request};
use nwfilter::engine::error::Error;
use nwfilter::ruleset::ipset::IpsetVerb;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Default)]
pub struct Engine {
    filters: BTreeMap<String, (Uuid, String)>,
    bindings: BTreeMap<String, (String, String)>,
    sets: BTreeMap<String, Vec<String>>,
}

impl Engine {
    pub fn answer(&mut self, request: Request) -> Result<Reply, Error> {
        match request {
            Request::CountFilters => Ok(Reply::Count(self.filters.len())),
            Request::ListFilterNames { max } => {
                Ok(Reply::Names(self.filters.keys().take(max).cloned().collect()))
            }
            Request::ListAllFilters { need_results: false, .. } => Ok(Reply::Count(self.filters.len())),
            Request::ListAllFilters { .. } => {
                Ok(Reply::Filters(self.filters.iter().map(filter_id).collect()))
            }
            Request::LookupFilterByName { name } => {
                let found = self.filters.get_key_value(&name).map(filter_id);
                found.map(Reply::Filter).ok_or_else(|| Error::no_filter_named(&name))
            }
            Request::LookupFilterByUuid { uuid } => self.by_uuid(uuid).map(Reply::Filter),
            Request::FilterXml { uuid, .. } => {
                let name = self.by_uuid(uuid)?.name;
                Ok(Reply::Xml(self.filters[&name].1.clone()))
            }
            Request::DefineFilter { xml, .. } => self.define(xml),
            Request::UndefineFilter { uuid } => {
                let name = self.by_uuid(uuid)?.name;
                if self.bindings.values().any(|(filter, _)| *filter == name) {
                    return Err(Error::invalid("nwfilter is in use"));
                }
                self.filters.remove(&name);
                Ok(Reply::Done)
            }
            Request::ListAllBindings { need_results: false, .. } => Ok(Reply::Count(self.bindings.len())),
            Request::ListAllBindings { .. } => {
                Ok(Reply::Bindings(self.bindings.iter().map(binding_id).collect()))
            }
            Request::LookupBinding { portdev } => {
                let found = self.bindings.get_key_value(&portdev).map(binding_id);
                found.map(Reply::Binding).ok_or_else(|| Error::no_binding(&portdev))
            }
            Request::BindingXml { portdev, .. } => {
                let found = self.bindings.get(&portdev).ok_or_else(|| Error::no_binding(&portdev))?;
                Ok(Reply::Xml(found.1.clone()))
            }
            Request::CreateBinding { xml, .. } => self.bind(xml),
            Request::Apply { xml } => self.bind(xml).map(|_| Reply::Done),
            Request::Plan { xml } => Ok(Reply::Json(xml)),
            Request::DeleteBinding { portdev } | Request::Remove { portdev } => {
                self.bindings.remove(&portdev).ok_or_else(|| Error::no_binding(&portdev))?;
                Ok(Reply::Done)
            }
            Request::Bound { portdev } => Ok(Reply::Json(format!("{{\"portdev\":\"{portdev}\"}}"))),
            Request::Define { documents } => {
                documents.into_iter().try_for_each(|(_, xml)| self.define(xml).map(drop))?;
                Ok(Reply::Json("[]".into()))
            }
            Request::Undefine { name } => {
                self.filters.remove(&name).ok_or_else(|| Error::no_filter_named(&name))?;
                Ok(Reply::Done)
            }
            Request::Status => Ok(Reply::Json(format!("{{\"bindings\":{}}}", self.bindings.len()))),
            Request::Ipset { name, verb, addresses } => {
                let set = self.sets.entry(name).or_default();
                match verb {
                    IpsetVerb::Add => set.extend(addresses),
                    IpsetVerb::Delete => set.retain(|address| !addresses.contains(address)),
                    IpsetVerb::Flush => set.clear(),
                    IpsetVerb::List => return Ok(Reply::Names(set.clone())),
                }
                Ok(Reply::Names(Vec::new()))
            }
        }
    }

    fn by_uuid(&self, uuid: Uuid) -> Result<FilterId, Error> {
        let found = self.filters.iter().find(|(_, (each, _))| *each == uuid);
        found.map(filter_id).ok_or_else(|| Error::no_filter_with(uuid))
    }

    fn define(&mut self, xml: String) -> Result<Reply, Error> {
        let document = roxmltree::Document::parse(&xml).map_err(|bad| Error::xml_detail(bad.to_string()))?;
        let root = document.root_element();
        let name = root.attribute("name").ok_or_else(|| Error::internal("filter has no name"))?.to_owned();
        let uuid = child(root, "uuid").and_then(|node| node.text()).map(|text| text.parse().unwrap());
        let uuid = uuid.unwrap_or_else(Uuid::new_v4);
        self.filters.insert(name.clone(), (uuid, xml));
        Ok(Reply::Filter(FilterId { name, uuid }))
    }

    fn bind(&mut self, xml: String) -> Result<Reply, Error> {
        let document = roxmltree::Document::parse(&xml).map_err(|bad| Error::xml_detail(bad.to_string()))?;
        let root = document.root_element();
        let attribute =
            |node, name| child(root, node).and_then(|node| node.attribute(name)).unwrap().to_owned();
        let (portdev, filter) = (attribute("portdev", "name"), attribute("filterref", "filter"));
        if self.bindings.contains_key(&portdev) {
            return Err(Error::failed(format!("binding '{portdev}' already exists")));
        }
        self.bindings.insert(portdev.clone(), (filter.clone(), xml));
        Ok(Reply::Binding(BindingId { portdev, filter }))
    }
}

fn child<'a>(node: roxmltree::Node<'a, 'a>, name: &str) -> Option<roxmltree::Node<'a, 'a>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn filter_id((name, (uuid, _)): (&String, &(Uuid, String))) -> FilterId {
    FilterId { name: name.clone(), uuid: *uuid }
}

fn binding_id((portdev, (filter, _)): (&String, &(String, String))) -> BindingId {
    BindingId { portdev: portdev.clone(), filter: filter.clone() }
}

pub const XML: &str = "<filter name='cap-test'><uuid>11111111-2222-3333-4444-555555555555</uuid></filter>";
pub const BINDING: &str = "<filterbinding><owner><name>vm</name><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>\
    </owner><portdev name='tap7'/><mac address='52:54:00:00:00:01'/><filterref filter='cap-test'/></filterbinding>";
