// Holds custom resources against the schemas of their definitions: node crds.mjs RESOURCES_JSON
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const models = { ScaledObject, PodMonitor, ServiceMonitor };
const resources = JSON.parse(readFileSync(process.argv[2], "utf8"));
for (const resource of resources) {
  const Model = models[resource.kind];
  if (!Model) throw new Error(`there is no schema for ${resource.kind}`);
  if (resource.apiVersion !== Model.apiVersion) throw new Error(`${resource.kind}: unexpected ${resource.apiVersion}`);
  new Model(resource).validate();
  // A schema that takes anything would prove nothing.
  let refused = false;
  try {
    new Model({ ...resource, spec: [] }).validate();
  } catch {
    refused = true;
  }
  if (!refused) throw new Error(`${resource.kind}'s schema takes a list for its spec`);
}
console.log(`custom resources: ${resources.map((resource) => resource.kind).join(", ")}`);
