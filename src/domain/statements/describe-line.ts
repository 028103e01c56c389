import type { Language } from './statement.ts'

/** What the ledger knows of a posting on a patient's account. */
export interface PostedLine {
  /** Of its transaction: `charge`, `payment` … */
  kind: string
  /** What was charged, or what the charge was that it reverses. */
  itemCode: string | null
  /** How it was paid: `cash`, or a gateway's name. */
  method: string | null
  /** Of the payment: a receipt's number, or the gateway's own. */
  reference: string | null
}

interface Words {
  charge: string
  payment: string
  refund: string
  reversal: string
  adjustment: string
  cash: string
}

const WORDS: Record<Language, Words> = {
  'fa-AF': {
    charge: 'فیس خدمات صحی',
    payment: 'پرداخت',
    refund: 'بازپرداخت',
    reversal: 'برگشت فیس',
    adjustment: 'تعدیل حساب',
    cash: 'نقدی',
  },
  'ps-AF': {
    charge: 'د روغتیایي خدمت فیس',
    payment: 'تادیه',
    refund: 'بېرته ورکړه',
    reversal: 'د فیس لغوه کول',
    adjustment: 'د حساب سمون',
    cash: 'نغدې',
  },
  ar: {
    charge: 'رسوم خدمة صحية',
    payment: 'دفعة',
    refund: 'استرداد',
    reversal: 'إلغاء رسوم',
    adjustment: 'تسوية حساب',
    cash: 'نقدًا',
  },
  en: {
    charge: 'Health service',
    payment: 'Payment',
    refund: 'Refund',
    reversal: 'Charge reversed',
    adjustment: 'Account adjusted',
    cash: 'cash',
  },
}

/** How a posting stands in a statement. A kind that has no words of its own is printed as the ledger has it. */
export function describeLine(
  { kind, itemCode, method, reference }: PostedLine,
  language: Language,
): { description: string; reference: string | null } {
  const words = WORDS[language]
  const what = Object.hasOwn(words, kind) ? words[kind as keyof Words] : kind
  const how = method === 'cash' ? words.cash : method
  return { description: how === null ? what : `${what} (${how})`, reference: itemCode ?? reference }
}
