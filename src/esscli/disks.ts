/**
 * The disks of this host that are volumes of an ESS, from what Linux says in sysfs: for a SCSI disk
 * vendor, model and VPD page 0x80 (as the kernel read it), for a virtio disk its serial. No device
 * is opened, so no rights are needed. On other systems RS_DISKS takes their place.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, nonEmpty } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';

export interface LocalDisk {
  readonly name: string;
  /** Eight characters, upper case: `20313698`. */
  readonly serial: string;
}

const SERIAL = /^[0-9A-F]{3}[0-9A-Z]{5}$/;
const NATURAL = new Intl.Collator('en', { numeric: true });

/**
 * RS_DISKS, or what sysfs has.
 *
 * @throws FlashlunError USAGE: RS_DISKS is malformed, or there is no sysfs
 */
export function localDisks(env: NodeJS.ProcessEnv, sysfs = '/sys'): LocalDisk[] {
  const told = nonEmpty(env['RS_DISKS']);
  return told === undefined ? sysfsDisks(sysfs) : told.split(',').map(parseDisk);
}

function parseDisk(text: string): LocalDisk {
  const match = /^([\x21-\x2b\x2d-\x3c\x3e-\x7e]{1,128})=(\w{8})$/.exec(text.trim());
  const [, name = '', serial = ''] = match ?? [];
  if (SERIAL.test(serial.toUpperCase())) return { name, serial: serial.toUpperCase() };
  throw new FlashlunError(
    'USAGE',
    `RS_DISKS is malformed at '${text.trim().slice(0, 40)}': write NAME=SERIAL,NAME=SERIAL, for ` +
      'example Disk1=20313698,Disk2=20413698.',
  );
}

function sysfsDisks(sysfs: string): LocalDisk[] {
  const found: LocalDisk[] = [];
  for (const name of blockDevices(join(sysfs, 'block')).sort(NATURAL.compare)) {
    const serial = serialOf(join(sysfs, 'block', name));
    if (serial !== undefined && SERIAL.test(serial)) found.push({ name, serial });
  }
  return found.slice(0, LIMITS.disksPerHost);
}

function blockDevices(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    throw new FlashlunError(
      'USAGE',
      `cannot look for disks in ${folder} (${errnoOf(error) ?? 'no sysfs'}): on this system name ` +
        'them in RS_DISKS, for example RS_DISKS=Disk1=20313698.',
      { cause: error },
    );
  }
}

function serialOf(folder: string): string | undefined {
  const vendor = text(join(folder, 'device/vendor'));
  // A virtio disk has no vendor and model of SCSI (its "vendor" is a PCI number); only its serial.
  if (vendor === undefined || vendor.startsWith('0x')) return text(join(folder, 'serial'));
  if (vendor !== 'IBM' || text(join(folder, 'device/model'))?.startsWith('2105') !== true) {
    return undefined;
  }
  const page = bytes(join(folder, 'device/vpd_pg80'));
  // SPC: byte 1 is the page code, bytes 2 and 3 the length of what follows.
  if (page === undefined || page.length < 4 || page[1] !== 0x80) return undefined;
  return page
    .subarray(4, 4 + page.readUInt16BE(2))
    .toString('latin1')
    .trim();
}

function text(file: string): string | undefined {
  return bytes(file)?.toString('latin1').trim();
}

function bytes(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch {
    return undefined; // not every device has every attribute
  }
}
