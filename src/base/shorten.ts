/** What a user typed, for a message that must stay one readable line. */
export function shorten(text: string): string {
  const printable = text.replaceAll(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, '?');
  return printable.length > 40 ? `${printable.slice(0, 37)}...` : printable;
}
