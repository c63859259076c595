// The messages of the console's API. An int64 is a string, as in the JSON of protobuf.

// unknown: what would report the state does not answer. ok is false then.
export type Parts = Record<string, { ok: boolean; unknown?: boolean; problem?: string; since: string }>;

// Figures are computed and rounded by the circuits service, over the last ten complete seconds. There are no
// percentiles if no call was made.
export type Figures = {
  callsPerSecond: number;
  errorPercent: number;
  rejectedPerSecond: number;
  fallbacksPerSecond: number;
  p50Ms?: number;
  p90Ms?: number;
  p99Ms?: number;
};
// Load without figures and without measuring is not reported.
export type Load = { measuring?: boolean; figures?: Figures };
export type Check = { name: string; ok: boolean; needed: boolean; reason?: string };
export type Instance = Load & {
  service: string;
  id: string;
  zone: string;
  version: string;
  region?: string;
  environment?: string;
  status: string;
  reported: string;
  override?: string;
  overrideReason?: string;
  overrideAuthor?: string;
  started?: string;
  statusSince?: string;
  suspect?: boolean;
  endpoints: Record<string, string>;
  admin?: {
    ok: boolean;
    problem?: string;
    since: string;
    checks?: Check[];
    revision?: number;
    memoryBytes?: number;
    goroutines?: number;
  };
};
export type Fleet = {
  instances: Instance[];
  lastKnown?: boolean;
  selfPreservation?: { reason: string; since: string };
  storeProblem?: string;
};

export type Node = Load & { name: string; platform?: boolean; instances: number; up: number };
export type Edge = Load & {
  from: string;
  to: string;
  notClosed?: string[];
  ejected?: Record<string, string>;
  versions?: Record<string, number>;
};
export type Traffic = { nodes: Node[]; edges: Edge[] };

export type Circuit = {
  name: string;
  group: string;
  state: string;
  reason: string;
  since?: string;
  rolling: Record<string, string>;
  requests: string;
  errors: string;
  errorPercentage: number;
  concurrent: number;
  maxConcurrent: number;
  figures?: Figures; // undefined: measuring
  properties: Record<string, string>;
  exampleTraces: string[];
  reportingHosts: number;
  openInstances: number;
};
export type Board = { services: { service: string; instances: string[]; circuits: Circuit[] }[] };

export type Scope = { layer: string; app: string; selector: string };
export type Identity = {
  app: string;
  instance: string;
  environment: string;
  region: string;
  zone: string;
  version: string;
};
export type Property = {
  name: string;
  type: string;
  defaultValue: string;
  doc: string;
  unit: string;
  min: string;
  max: string;
  options: string[];
  jsonSchema: string;
};
export type Value = { name: string; value: string; layer: string; scope?: Scope; revision: string; expires?: string };
export type Listed = { property: Property; apps: string[]; values: Value[] };
export type Applied = { name: string; scope: Scope; before?: string; after?: string; expires?: string };
export type Revision = { revision: string; author: string; reason: string; time: string; changes: Applied[] };
export type Candidate = { value: Value; author: string; reason: string; time?: string; wins: boolean };
export type Status = {
  revision: string;
  current: number;
  total: number;
  instances: {
    identity: Identity;
    revision: string;
    acknowledged?: string;
    rejections: { name: string; revision: string; problem: string }[];
    cutOff?: boolean;
  }[];
  unreachable: string[];
  registryProblem?: string;
};
export type SettingsState = { status: Status; newest?: Revision };

export type Target = { service: string; endpoint?: string; version?: string; weight?: number };
export type Match = {
  methods?: string[];
  host?: string;
  path?: string;
  prefix?: string;
  headers?: { name: string; value?: string }[];
};
export type Route = {
  name: string;
  match: Match;
  to: Target[];
  headerTimeout?: string;
  totalTimeout?: string;
  bodyLimit?: number;
  retry?: { attempts?: number };
  sticky?: string;
  rewrite?: { prefix?: string; host?: string };
};
export type Origin = {
  service: string;
  endpoint: string;
  instances:
    | {
        id: string;
        addr: string;
        zone?: string;
        version?: string;
        ready: boolean;
        phase: string;
        latencyMs: number;
        pending: number;
        share: number;
        failures: number;
        reason?: string;
        ejectedUntil?: string;
      }[]
    | null;
};
export type Table = { revision: number; routes: Route[]; origins: Origin[] };
export type Tables = Record<string, Table>;

export type Span = {
  traceId: string;
  parentId?: string;
  id: string;
  kind?: string;
  name?: string;
  timestamp?: number;
  duration?: number;
  localEndpoint?: { serviceName?: string };
  remoteEndpoint?: { serviceName?: string };
  annotations?: { timestamp: number; value: string }[];
  tags?: Record<string, string>;
};
