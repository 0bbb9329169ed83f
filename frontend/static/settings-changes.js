/** Which of the form's settings differ from those that the page came with, and back to these. */

const isDefault = (field) => {
  if (field.type === "checkbox") return field.checked === field.defaultChecked;
  if (field.options) return field.value === defaultOption(field)?.value;
  return field.value.trim() === field.defaultValue;
};

const defaultOption = ({ options }) => [...options].find(({ defaultSelected }) => defaultSelected) ?? options[0];

/** The fields that the visitor has changed; those that are hidden would have no effect. */
export const changedFields = (fields) => [...fields].filter((field) => field.name && !field.closest("[hidden]") && !isDefault(field));

export function resetFields(fields) {
  for (const field of changedFields(fields)) {
    if (field.type === "checkbox") field.checked = field.defaultChecked;
    else if (field.options) field.value = defaultOption(field).value;
    else field.value = field.defaultValue;
  }
}
