/**
 * Golden transcripts: whole negotiations, byte by byte, as real clients hold them. Written by hand
 * from proto.md; blanks and line breaks are for the reader. The greeting is left out.
 *
 * Export 20313698 has 1 GiB (0x40000000) and flags 0x0d6d: HAS_FLAGS, SEND_FLUSH, SEND_FUA,
 * SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN, SEND_CACHE, SEND_FAST_ZERO. 30313698 has 64 TiB, is
 * read-only, flags 0x050f, and has blocks of 4096 bytes. Structured replies add SEND_DF (0x80),
 * extended headers with a context BLOCK_STATUS_PAYLOAD (0x1000).
 */

export interface Transcript {
  readonly name: string;
  readonly client: string;
  readonly server: string;
  /** The volume negotiation ends with; undefined: the connection is closed. */
  readonly volumeId: number | undefined;
  readonly replies?: 'structured' | 'extended';
  /** Kinds of the contexts that were selected. */
  readonly contexts?: readonly string[];
  /** Bytes of the transmission phase at the end of `client`. */
  readonly requestBytes?: number;
}

/** The bytes of a hex text with blanks. */
export function hex(text: string): Buffer {
  return Buffer.from(text.replace(/\s/g, ''), 'hex');
}

/** Text as hex, for names and messages inside a transcript. */
function t(text: string): string {
  return Buffer.from(text, 'utf8').toString('hex');
}

const OPT = '49484156454f5054';
const REP = '0003e889045565a9';
const SERIAL = t('20313698');
const ACK = (option: string) => `${REP} ${option} 00000001 00000000`;
const ERROR = (option: string, type: string, text: string) => {
  const length = Buffer.byteLength(text).toString(16).padStart(8, '0');
  return `${REP} ${option} ${type} ${length} ${t(text)}`;
};

export const TRANSCRIPTS: readonly Transcript[] = [
  {
    name: 'nbd-client: GO without information requests, then a read',
    client: `00000003
      ${OPT} 00000007 0000000e 00000008 ${SERIAL} 0000
      25609513 0000 0000 0000000000000001 0000000000000000 00001000`,
    server: `
      ${REP} 00000007 00000003 0000000c 0000 0000000040000000 0d6d
      ${ACK('00000007')}`,
    volumeId: 0x1203,
    requestBytes: 28,
  },
  {
    name: 'QEMU 8.2: extended headers, a context, GO with block sizes',
    client: `00000003
      ${OPT} 0000000b 00000000
      ${OPT} 0000000a 00000023 00000008 ${SERIAL} 00000001 0000000f ${t('base:allocation')}
      ${OPT} 00000007 00000010 00000008 ${SERIAL} 0001 0003`,
    server: `
      ${ACK('0000000b')}
      ${REP} 0000000a 00000004 00000013 00000001 ${t('base:allocation')}
      ${ACK('0000000a')}
      ${REP} 00000007 00000003 0000000c 0000 0000000040000000 1ded
      ${REP} 00000007 00000003 0000000e 0003 00000001 00001000 02000000
      ${ACK('00000007')}`,
    volumeId: 0x1203,
    replies: 'extended',
    contexts: ['allocation'],
  },
  {
    name: 'libnbd: structured replies, two contexts and a bitmap, GO of a 4Kn volume',
    client: `00000003
      ${OPT} 00000008 00000000
      ${OPT} 00000009 00000025 00000008 ${t('30313698')} 00000001 00000011
        ${t('qemu:dirty-bitmap')}
      ${OPT} 0000000a 0000004e 00000008 ${t('30313698')} 00000003
        00000005 ${t('base:')}
        0000000f ${t('base:allocation')}
        0000001e ${t('qemu:dirty-bitmap:fc-1203-1303')}
      ${OPT} 00000007 00000010 00000008 ${t('30313698')} 0001 0003`,
    server: `
      ${ACK('00000008')}
      ${ACK('00000009')}
      ${REP} 0000000a 00000004 00000013 00000001 ${t('base:allocation')}
      ${REP} 0000000a 00000004 00000022 00000002 ${t('qemu:dirty-bitmap:fc-1203-1303')}
      ${ACK('0000000a')}
      ${REP} 00000007 00000003 0000000c 0000 0000400000000000 058f
      ${REP} 00000007 00000003 0000000e 0003 00001000 00001000 02000000
      ${ACK('00000007')}`,
    volumeId: 0x1303,
    replies: 'structured',
    contexts: ['allocation', 'changes'],
  },
  {
    name: 'nbdinfo --list: LIST, INFO with name, description and block sizes, ABORT',
    client: `00000003
      ${OPT} 00000003 00000000
      ${OPT} 00000006 00000014 00000008 ${t('30313698')} 0003 0001 0002 0003
      ${OPT} 00000002 00000000`,
    server: `
      ${REP} 00000003 00000002 0000001b 00000008 ${SERIAL} ${t('1203 db 1.0 GiB')}
      ${REP} 00000003 00000002 00000019 00000008 ${t('30313698')} ${t('1303 64.0 TiB')}
      ${ACK('00000003')}
      ${REP} 00000006 00000003 0000000c 0000 0000400000000000 050f
      ${REP} 00000006 00000003 0000000a 0001 ${t('30313698')}
      ${REP} 00000006 00000003 0000000f 0002 ${t('1303 64.0 TiB')}
      ${REP} 00000006 00000003 0000000e 0003 00001000 00001000 02000000
      ${ACK('00000006')}
      ${ACK('00000002')}`,
    volumeId: undefined,
  },
  {
    name: 'an old client: EXPORT_NAME by volume id, 124 zeroes',
    client: `00000000 ${OPT} 00000001 00000004 ${t('1203')}`,
    server: `0000000040000000 0d6d ${'00'.repeat(124)}`,
    volumeId: 0x1203,
  },
  {
    name: 'EXPORT_NAME without zeroes, with a request at once',
    client: `00000003 ${OPT} 00000001 00000002 ${t('db')}
      25609513 0000 0003 0000000000000007 0000000000000000 00000000`,
    server: '0000000040000000 0d6d',
    volumeId: 0x1203,
    requestBytes: 28,
  },
  {
    name: 'a client that would like TLS, then does without',
    client: `00000001
      ${OPT} 00000005 00000000
      ${OPT} 00000007 0000000e 00000008 ${SERIAL} 0000`,
    server: `
      ${ERROR('00000005', '80000001', 'this server has no TLS; connect without it\n')}
      ${REP} 00000007 00000003 0000000c 0000 0000000040000000 0d6d
      ${ACK('00000007')}`,
    volumeId: 0x1203,
  },
  {
    name: 'unknown exports are refused with a way out, and the client may go on',
    client: `00000003
      ${OPT} 00000007 0000000a 00000004 ${t('1204')} 0000
      ${OPT} 00000006 00000006 00000000 0000
      ${OPT} 00000007 0000000a 00000004 ${t('1303')} 0000`,
    server: `
      ${ERROR(
        '00000007',
        '80000006',
        "there is no export '1204'. " +
          "Ask for a volume's serial (as 20313698), id or name; LIST shows them\n",
      )}
      ${ERROR(
        '00000006',
        '80000006',
        'there is no default export. ' +
          "Ask for a volume's serial (as 20313698), id or name; LIST shows them\n",
      )}
      ${REP} 00000007 00000003 0000000c 0000 0000400000000000 050f
      ${ACK('00000007')}`,
    volumeId: 0x1303,
  },
];
