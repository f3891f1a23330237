/** The public API of thaw. Named re-exports only; everything else may change at any time. */

export { type DiskCacheOptions, diskCacheBound, resizeDiskCache } from './cache/disk.ts'
export type { OriginOptions } from './cache/origin.ts'
export type { RedisCacheOptions, RedisMode } from './cache/redis.ts'
export type { CacheDescription } from './cache.ts'
export type { ChangedPages, ImageChanges } from './changes.ts'
export type { CommitOptions, DiffBase } from './commit.ts'
export type { ChunkTotals, DiffCell, ImageDiff, SnapshotDiff } from './diff.ts'
export type { ClearedCache } from './engine.ts'
export { type ErrorCode, isThawError, ThawError, type ThawErrorOptions, type Tier } from './errors.ts'
export { type ExecOptions, execVmm } from './exec.ts'
export type { Location } from './find.ts'
export { mount, serveNbd, serveUffd } from './front-ends.ts'
export type { Mount, MountEnd, MountOptions } from './frontend/fuse.ts'
export type { NbdTlsOptions } from './frontend/nbd/tls-files.ts'
export type { NbdEnd, NbdOptions, NbdServer } from './frontend/nbd.ts'
export type { UffdEnd, UffdOptions, UffdPager } from './frontend/uffd.ts'
export type { ImageFigures, Inspection, OutlineFigures, RangeCell, SegmentFigures, SnapshotDetails } from './inspect.ts'
export type { DomainOptions } from './keys/create.ts'
export type { ExportOptions } from './keys/export.ts'
export { createFileKeyring, type FileKeyring, fileKeyring } from './keys/file.ts'
export type { KeyListing } from './keys/list.ts'
export { type Keyring, type Kinship, LAYERS, type Layer, type Sealer, type SealerOptions, type Signature, type WrappedKey } from './keys.ts'
export { IMAGE_KINDS, type ImageKind } from './manifest.ts'
export { type FigureSource, type MetricsOptions, type MetricsServer, metricsText, serveMetrics } from './metrics.ts'
export { checkTagName, checkTenantName, formatTagName, parseRef, type Ref, type TagName } from './names.ts'
export { notifySupervisor } from './notify.ts'
export { Cache, type CacheOptions, createCache } from './open-cache.ts'
export type { OverlayFigures, OverlayImageFigures } from './overlay.ts'
export type { ServedFigures } from './pager/figures.ts'
export type { PagerOptions } from './pager/threads.ts'
export type { PulledImage, PullOptions, PullProgress, PullResult } from './pull.ts'
export type { PushCounts, PushProgress } from './push/progress.ts'
export type { ImageSource, PushedImage, PushedSnapshot, PushOptions, PushSpec } from './push.ts'
export type { ReadOptions } from './reader.ts'
export type { ResolvedRef } from './refs.ts'
export type { FrontEndKind, RestoredImage } from './restore/serving.ts'
export type {
  OverlaySettings,
  Restore,
  RestoredSnapshot,
  RestoreEvent,
  RestoreFigures,
  RestoreOptions,
} from './restore.ts'
export type { Snapshot, SnapshotImage } from './snapshot.ts'
export type {
  ListOptions,
  OpenOptions,
  PushResult,
  SnapshotSummary,
  StorePushSpec,
  TagListing,
  TagOptions,
} from './snapshot-store/contract.ts'
export { initStore, openStore, type SnapshotStore } from './snapshot-store.ts'
export type { EngineFigures, MemoryFigures, OriginFigures, ReadFigures, TierFigures } from './stats.ts'
export { type CheckResult, checkStore } from './store/check.ts'
export { type OpenObjectStoreOptions, openObjectStore } from './store/open.ts'
export type { RetryOptions } from './store/retry.ts'
export type { S3StoreOptions } from './store/s3.ts'
export type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from './store.ts'
export type { Owner } from './util/gate.ts'
export { type Distribution, quantileOf } from './util/histogram.ts'
export { type Priority, Urgency } from './util/urgency.ts'
export type { BadObject, VerifyOptions, VerifyProgress, VerifyReport } from './verify.ts'
export type { CacheTier, WarmOptions, WarmProgress, WarmResult } from './warm.ts'
