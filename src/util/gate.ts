/** Who work is done for, and so who shares what is scarce. */

/** Turns go round the tenants, and within a tenant round its restores. */
export interface Owner {
  /** Empty: nobody in particular. */
  readonly tenant: string
  /** Empty: no restore, such as a pull. */
  readonly restore: string
}
